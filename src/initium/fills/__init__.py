"""Fills: concrete distributions, which backends draw."""
