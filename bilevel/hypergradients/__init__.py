"""Hypergradients: how the body's gradient is obtained."""

from bilevel.hypergradients.base import AbstractHypergradient, Answer, BodyGradient
from bilevel.hypergradients.envelope import Envelope

__all__ = ["AbstractHypergradient", "Answer", "BodyGradient", "Envelope"]
