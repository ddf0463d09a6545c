"""Staging: the same functions and the same rules, run on Symbols, write down a program."""
