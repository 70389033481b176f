"""Convex sets and the Euclidean projection onto them."""

from bilevel.problem.sets.ball import Ball, L1Ball
from bilevel.problem.sets.base import ConvexSet, Everywhere
from bilevel.problem.sets.box import Box, Nonnegative
from bilevel.problem.sets.simplex import Simplex

__all__ = ["Ball", "Box", "ConvexSet", "Everywhere", "L1Ball", "Nonnegative", "Simplex"]
