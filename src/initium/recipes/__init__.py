"""Rules by the names of tensors, and recipes: TOML files of rules for a family of models."""
