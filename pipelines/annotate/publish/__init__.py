"""From committed shards to parts that readers see."""
