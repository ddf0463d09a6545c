"""Programs written on lantern, each to be read as a text and run from the repository's root."""
