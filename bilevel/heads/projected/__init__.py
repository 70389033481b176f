"""Heads between bounds, by projected Newton steps."""
