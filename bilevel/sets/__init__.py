"""Convex sets and the Euclidean projection onto them."""

from bilevel.sets.ball import Ball, L1Ball
from bilevel.sets.base import ConvexSet, Everywhere
from bilevel.sets.box import Box, Nonnegative
from bilevel.sets.simplex import Simplex

__all__ = ["Ball", "Box", "ConvexSet", "Everywhere", "L1Ball", "Nonnegative", "Simplex"]
