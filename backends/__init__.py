"""Backends: each a folder that reads a staged program and returns a callable.

Here lives ``llvm`` for the CPU. To live here: ``cuda`` for the GPU. This package imports `staging`
and nothing of `lantern`.
"""
