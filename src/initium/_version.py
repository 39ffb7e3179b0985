"""The version of initium, and nothing else, so that the build reads it without importing NumPy."""

__version__ = "0.1.0"
