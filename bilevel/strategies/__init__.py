"""Strategies: how the two levels move."""

from bilevel.strategies.balanced import BalancedRates
from bilevel.strategies.base import AbstractStrategy
from bilevel.strategies.best_response import BestResponse
from bilevel.strategies.own_loop import OwnLoop
from bilevel.strategies.presets import preset_strategies
from bilevel.strategies.single_loop import SOBA, AbstractDirections, SingleLoop
from bilevel.strategies.two_timescale import TwoTimescale, uniform

__all__ = [
    "SOBA",
    "AbstractDirections",
    "AbstractStrategy",
    "BalancedRates",
    "BestResponse",
    "OwnLoop",
    "SingleLoop",
    "TwoTimescale",
    "preset_strategies",
    "uniform",
]
