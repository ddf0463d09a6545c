"""Backends: each a folder that reads a staged program and returns a callable.

Here live ``llvm`` for the CPU and ``cuda`` for the GPU. This package imports `staging` and nothing
of `lantern`.
"""
