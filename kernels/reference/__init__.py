"""The value contract in plain NumPy: slow, readable, and the judge of every other backend."""
