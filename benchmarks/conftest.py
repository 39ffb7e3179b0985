"""Benchmarks run by hand: ``python -m pytest benchmarks``."""
