"""Fills: the concrete distributions that backends draw."""
