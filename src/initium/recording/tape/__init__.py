"""Recording: a model's own code runs on the meta device, and each operation is put on a tape."""
