"""Many strategies, paired over seeds."""
