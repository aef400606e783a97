"""What a worker does with a work unit: read, fetch, prepare, predict, write."""
