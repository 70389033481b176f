"""Results on disk: folders that appear whole or not at all, in JSON and CSV."""
