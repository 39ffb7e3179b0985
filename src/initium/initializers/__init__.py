"""Initializers: what the user asks for, from every library and paper under its own name."""
