"""Plans: jobs laid out for a backend."""
