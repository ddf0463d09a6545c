"""Passes: each a function from a program to a program that computes the same."""
