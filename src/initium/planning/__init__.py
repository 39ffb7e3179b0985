"""Plans: the jobs of a call, prepared for a backend."""
