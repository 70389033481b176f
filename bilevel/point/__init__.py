"""The head and the hypergradient at one point."""

from bilevel.point.point import adapt, best_response, hypergradient

__all__ = ["adapt", "best_response", "hypergradient"]
