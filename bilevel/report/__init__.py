"""Figures, sentences and the self-contained page, from arrays and dictionaries only."""
