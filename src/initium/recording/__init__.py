"""A model's own initialisation: recorded on the meta device, and drawn by initium."""
