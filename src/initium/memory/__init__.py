"""Destinations: the memory of existing and new arrays on the CPU and on GPUs."""
