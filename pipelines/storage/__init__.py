"""Files anywhere: on a disk, in a bucket, on the hub."""
