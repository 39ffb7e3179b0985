"""Models by their tensors: built in, from Hugging Face configurations, or as they lie on disk."""
