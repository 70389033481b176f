"""Data hyper-cleaning: training rows with wrong labels, and a few rows that are clean."""
