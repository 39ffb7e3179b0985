"""The definition of all values in plain NumPy: slow and readable; other backends are tested against it."""
