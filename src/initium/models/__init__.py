"""Models as lists of tensors: built in, from Hugging Face configurations, or from existing files."""
