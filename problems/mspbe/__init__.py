"""Policy evaluation: processes, the exact objective, linear methods, transitions."""

from problems.mspbe import exact
from problems.mspbe.baird import baird
from problems.mspbe.boyan import boyan, restarting_chain
from problems.mspbe.process import MarkovRewardProcess, Model
from problems.mspbe.random_process import random_process
from problems.mspbe.random_walk import random_walk
from problems.mspbe.transitions import Transitions
from problems.mspbe.two_state import two_state

__all__ = [
    "MarkovRewardProcess",
    "Model",
    "Transitions",
    "baird",
    "boyan",
    "exact",
    "random_process",
    "random_walk",
    "restarting_chain",
    "two_state",
]
