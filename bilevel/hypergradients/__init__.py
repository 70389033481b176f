"""Hypergradients: how the body's gradient is obtained."""

from bilevel.hypergradients.base import AbstractHypergradient, Answer, BodyGradient
from bilevel.hypergradients.envelope import Envelope
from bilevel.hypergradients.finite_differences import FiniteDifferences
from bilevel.hypergradients.implicit import Implicit
from bilevel.hypergradients.penalty_method import PenaltyMethod
from bilevel.hypergradients.unrolled import Unrolled

__all__ = [
    "AbstractHypergradient",
    "Answer",
    "BodyGradient",
    "Envelope",
    "FiniteDifferences",
    "Implicit",
    "PenaltyMethod",
    "Unrolled",
]
