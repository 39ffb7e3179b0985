"""Memory that is filled: whose it is, where it lies, and new arrays."""
