"""What a run leaves for people: a page, its numbers, the index of runs, a gallery if asked."""
