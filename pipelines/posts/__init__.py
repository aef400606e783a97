"""Posts in, for all jobs: listed, checked, read, compared and split."""
