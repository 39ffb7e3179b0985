"""Initializers: the user's choice of a distribution, under the names of many libraries and papers."""
