"""What rows look like: posts in, annotations and dead letters out, and the run's manifest.

Every kind of row has a version. This room depends on pyarrow only and imports no other.
"""
