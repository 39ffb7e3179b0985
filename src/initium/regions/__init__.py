"""Parts of a global shape: boxes in global indices, and windows with the memory for them."""
