"""Policy evaluation: processes, the exact objective, linear methods, transitions."""

from problems.mspbe import exact, experience, methods, stability
from problems.mspbe.baird import baird
from problems.mspbe.boyan import boyan, restarting_chain
from problems.mspbe.linear import LinearEvaluation
from problems.mspbe.logged import from_transitions, load_transitions
from problems.mspbe.neural import NeuralMSPBE
from problems.mspbe.process import MarkovRewardProcess, Model
from problems.mspbe.random_process import random_process
from problems.mspbe.random_walk import random_walk
from problems.mspbe.sources import Known, Logged, Redrawn
from problems.mspbe.transitions import Transitions
from problems.mspbe.two_state import two_state
from problems.mspbe.values import LeastSquaresValues, LSTDValues

__all__ = [
    "Known",
    "LSTDValues",
    "LeastSquaresValues",
    "LinearEvaluation",
    "Logged",
    "MarkovRewardProcess",
    "Model",
    "NeuralMSPBE",
    "Redrawn",
    "Transitions",
    "baird",
    "boyan",
    "exact",
    "experience",
    "from_transitions",
    "load_transitions",
    "methods",
    "random_process",
    "random_walk",
    "restarting_chain",
    "stability",
    "two_state",
]
