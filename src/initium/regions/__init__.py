"""Parts of a global shape: boxes (global indices) and windows (indices per axis, with memory)."""
