"""Benchmarks: one harness, one file for each workload. ``make bench`` runs all of them.

Each workload runs beside its peers in one process: results are compared before anything is timed,
contenders take turns, and what counts is the ratio between them.
"""
