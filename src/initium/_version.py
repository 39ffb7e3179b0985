"""The version of initium, in its own file, so that the build reads it without NumPy."""

__version__ = "0.1.0"
