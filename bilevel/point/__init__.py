"""The head and the hypergradient at one point."""
