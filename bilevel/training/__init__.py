"""Training of many runs."""
