"""What a run has to do: files cut into shards, less what is done already."""
