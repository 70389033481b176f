"""Heads by cvxpy."""
