"""Rules by the names of tensors, and recipes: rules for a family of models, as TOML."""
