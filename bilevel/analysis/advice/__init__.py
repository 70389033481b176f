"""Advice on learning rates: whether head and body should move at different ones."""
