"""From bytes to what an encoder takes: images decoded and resized, texts that say something."""
