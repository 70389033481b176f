"""Optimisers: how a gradient becomes a step."""

from bilevel.optimizers.adam import Adam, AdamW
from bilevel.optimizers.base import AbstractOptimizer
from bilevel.optimizers.clipped import Clipped
from bilevel.optimizers.rmsprop import RMSProp
from bilevel.optimizers.sgd import SGD

__all__ = ["SGD", "AbstractOptimizer", "Adam", "AdamW", "Clipped", "RMSProp"]
