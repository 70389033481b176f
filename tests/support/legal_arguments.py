"""Small legal arguments for every public callable that cannot do without, and uses of parts.

A part is used after it was made: what its constructor lets through must not fail later on.
"""

import functools
import itertools
from pathlib import Path

import numpy as np
import torch

import bilevel
from bilevel.exact import BayesianHead
from bilevel.storage.results import write_results
from problems.mspbe.episodes import Episodes
from problems.mspbe.exact import Moments, moments
from problems.mspbe.logged import from_transitions
from problems.mspbe.random_walk import random_walk
from problems.mspbe.sources import Known
from problems.mspbe.two_state import two_state
from problems.toy import ScalarProduct
from tests.support.small_problems import doubles, grouped

ROWS = grouped(0)
X, Y = (leaf.numpy() for leaf in ROWS["train"])
FEATURES = doubles(3, 5, 2)
AIMS, CLASSES = doubles(4, 5), torch.arange(5) % 2
RATES = [[0.1, 0.2], [0.1, 0.1]]
COUNT = itertools.count()
FEW = {"steps": 2, "seeds": 2, "every": 1}


class Linear(bilevel.LinearHeadProblem):
    """Ridge regression on a number of the body times the inputs."""

    ridge = 0.1

    def data(self, seed=None):
        return dict(ROWS)

    def init_body(self, generator):
        return torch.ones(())

    def init_head(self, generator):
        return torch.zeros(3)

    def features(self, body, inputs):
        return inputs * body


class Judged(ScalarProduct):
    """A true bilevel problem: F is not g."""

    def body_objective(self, body, head, batch):
        return (head - 0.3) ** 2 + 0.1 * body**2


class Labelled(Linear):
    """Classes 0 and 1, in a type that all losses know."""

    def data(self, seed=None):
        return {"train": bilevel.Batch(ROWS["train"].inputs, torch.arange(23) % 2)}


class Net(torch.nn.Module):
    """One hidden layer."""

    def __init__(self):
        super().__init__()
        self.hidden, self.fc = torch.nn.Linear(3, 4), torch.nn.Linear(4, 1)

    def forward(self, inputs):
        return self.fc(torch.tanh(self.hidden(inputs)))


def steps(problem, body, head, batches):
    """A training loop of somebody's own."""
    for _ in batches:
        yield body, head


@functools.cache
def solution():
    return bilevel.solve(Linear(), bilevel.uniform(0.01), batch_size=4, **FEW)


def write_files():
    """A table, a log, a solution and the results of a comparison, in this folder."""
    columns = np.column_stack([X, Y])
    np.savetxt("table.csv", columns, delimiter=",", header="a,b,c,y", comments="")
    np.savez("log.npz", **{k: v for k, v in LOG.items() if v is not None})
    solution().save("solution")
    Path("results").mkdir()
    write_results(Path("results"), comparison().content())


@functools.cache
def comparison():
    pair = {"slow": bilevel.uniform(0.01), "fast": bilevel.uniform(0.1)}
    return bilevel.compare(Linear(), pair, batch_size=4, **FEW)


@functools.cache
def network():
    return bilevel.split(Net)


def posterior():
    return BayesianHead.of(FEATURES, AIMS, 0.1)


def accumulator():
    return bilevel.GramAccumulator(fit_bias=True).add(X, Y)


def random():
    return torch.Generator().manual_seed(0)


def deep():
    layers = [torch.eye(2, dtype=torch.float64), torch.ones(2, 1, dtype=torch.float64)]
    eye, one = layers
    return {"weights": layers, "Sigma": eye, "C": one, "beta": one}


def model():
    return random_walk().model


def found():
    identity = torch.eye(2, dtype=torch.float64)
    return Moments(identity, identity[0], identity)


def turning():
    process = two_state()
    return moments(process.inputs, process.model, process.discount)


def played():
    flags = np.arange(4) == 3
    states = np.arange(8.0).reshape(4, 2)
    return Episodes(states, np.zeros(4), np.ones(4), states + 1, flags, ~flags & False)


def module_parts():
    body, head = network().init_body(random()), network().init_head(random())
    return {"body": body, "head": head}


LOG = {
    "states": X, "actions": None, "rewards": Y, "next_states": np.roll(X, -1, 0),
    "terminated": np.arange(23) == 22,
}  # fmt: skip
SPLIT = {"width": 3, "depth": 1}
IMAGES = {"train": 20, "validation": 5, "test": 5, "width": 3}
TWO = {"h": 4, "lrs": RATES}
THREE = {"h": 4, "A": 1.0, "B": 1.0, "c": 0.5}
STEP = {**THREE, "step1": RATES[0]}
SCRIPT = {"h": 4, "eta1": 0.1, "eta2": 0.2, "step": 1}

# what has no default, or one that takes long
LEGAL = {
    "bilevel.Ball": lambda: {"radius": 1.0},
    "bilevel.BestResponse": lambda: {"body_lr": 0.1},
    "bilevel.Box": lambda: {"low": -1.0, "high": 1.0},
    "bilevel.Clipped": lambda: {"max_norm": 1.0},
    "bilevel.Comparison.load": lambda: {"folder": "results"},
    "bilevel.Comparison.report": lambda: {"folder": f"report-{next(COUNT)}"},
    "bilevel.Comparison.to_csv": lambda: {"path": "history.csv"},
    "bilevel.Constant": lambda: {"value": 0.1},
    "bilevel.Cosine": lambda: {"initial": 0.1, "steps": 5},
    "bilevel.FastSGD": lambda: {"lr": 0.1, "steps": 3},
    "bilevel.GramAccumulator.add": lambda: {"inputs": X, "targets": Y},
    "bilevel.L1Ball": lambda: {"radius": 1.0},
    "bilevel.Neumann": lambda: {"steps": 3},
    "bilevel.OwnLoop": lambda: {"function": steps},
    "bilevel.Piecewise": lambda: {"initial": 0.1, "boundaries": [3], "factors": [0.5]},
    "bilevel.PenaltyMethod": lambda: {"multiplier": 100.0, "inner_steps": 3},
    "bilevel.Polynomial": lambda: {"initial": 0.1, "exponent": 0.5},
    "bilevel.SingleLoop": lambda: {"body_lr": 0.1, "head_lr": 0.1, "auxiliary_lr": 0.1},
    "bilevel.Solution.load": lambda: {"path": "solution", "problem": Linear()},
    "bilevel.Solution.predict": lambda: {"inputs": X},
    "bilevel.Solution.save": lambda: {"path": f"solution-{next(COUNT)}"},
    "bilevel.SplitModule": lambda: {"make_module": Net, "head": "fc"},
    "bilevel.SplitModule.features": lambda: {"body": module_parts()["body"], "inputs": X32},
    "bilevel.SplitModule.init_body": lambda: {"generator": random()},
    "bilevel.SplitModule.init_head": lambda: {"generator": random()},
    "bilevel.SplitModule.predict": lambda: {**module_parts(), "inputs": X32},
    "bilevel.TwoTimescale": lambda: {"body_lr": 0.1, "head_lr": 0.1},
    "bilevel.Unrolled": lambda: {"steps": 3},
    "bilevel.assign": lambda: {"module": Net(), **module_parts()},
    "bilevel.exact.BayesianHead.mean": lambda: {"rows": FEATURES},
    "bilevel.exact.BayesianHead.of": lambda: {"features": FEATURES, "targets": AIMS, "ridge": 0.1},
    "bilevel.exact.BayesianHead.sample": lambda: {"n": 2},
    "bilevel.exact.BayesianHead.variance": lambda: {"rows": FEATURES},
    "bilevel.exact.constrained_head": lambda: {
        "features": FEATURES,
        "targets": AIMS,
        "ridge": 0.1,
        "set": bilevel.Nonnegative(),
    },
    "bilevel.exact.logistic_head": lambda: {"features": FEATURES, "targets": CLASSES, "ridge": 0.1},
    "bilevel.exact.ridge_head": lambda: {"features": FEATURES, "targets": AIMS, "ridge": 0.1},
    "bilevel.exact.softmax_head": lambda: {"features": FEATURES, "targets": CLASSES, "ridge": 0.1},
    "bilevel.best_response": lambda: {"problem": Linear(), "body": torch.tensor(1.0)},
    "bilevel.check_problem": lambda: {"problem": ScalarProduct()},
    "bilevel.testing.check_problem": lambda: {"problem": ScalarProduct()},
    "bilevel.compare": lambda: {
        "problem": Linear(), "strategies": {"slow": bilevel.uniform(0.01)}, "batch_size": 4, **FEW
    },
    "bilevel.load_problem": lambda: {"name": "scalar-product"},
    "bilevel.hypergradient": lambda: {"problem": Judged(), "body": torch.tensor(1.0)},
    "bilevel.minimize": lambda: {"problem": Judged()},
    "bilevel.preset_strategies": lambda: {"body_lr": 0.01, "head_lr": 0.1},
    "bilevel.solve": lambda: {
        "problem": Linear(), "strategy": bilevel.uniform(0.01), "batch_size": 4, **FEW
    },
    "bilevel.split": lambda: {"make_module": Net},
    "bilevel.testing.check_head_solver": lambda: {"solver": bilevel.Newton()},
    "bilevel.testing.check_hypergradient": lambda: {
        "method": bilevel.Implicit(), "problems": [Judged()]
    },
    "bilevel.testing.check_linear_solver": lambda: {"solver": bilevel.Dense()},
    "bilevel.testing.check_optimizer": lambda: {"optimizer": bilevel.SGD()},
    "bilevel.uniform": lambda: {"lr": 0.1},
}  # fmt: skip
X32 = ROWS["train"].inputs.float()
LEGAL |= {
    "problem atari": lambda: {"start": 40, "capacity": 50, "batch": 4},
    "problem mnist": lambda: IMAGES, "problem fashion-mnist": lambda: IMAGES,
    "problem cifar10": lambda: IMAGES, "problem digits": lambda: SPLIT,
    "problem linear-network": lambda: {"width": 3, "rows": 8},
    "problem table": lambda: {"file": "table.csv", "target": "y"},
    "problem transitions": lambda: {"file": "log.npz"},
    "problem policy-evaluation": lambda: {"length": 20},
    "problem neural-policy-evaluation": lambda: {"length": 20},
    "problems.linear_networks.DeepLinearProblem": deep,
    "problems.linear_networks.DeepLinearProblem.from_data": lambda: {
        "inputs": ROWS["train"].inputs, "targets": ROWS["train"].targets[:, None],
        "weights": [torch.eye(3, dtype=torch.float64), torch.ones(3, 1, dtype=torch.float64)],
        "beta": torch.ones(3, 1, dtype=torch.float64),
    },
    "problems.linear_networks.DeepLinearProblem.train_loss": lambda: {
        "inputs": FEATURES, "targets": FEATURES[:, :1]
    },
    "problems.linear_networks.DeepLinearProblem.gd": lambda: {"lrs": RATES},
    "problems.linear_networks.LinearNetwork": lambda: {"width": 3, "rows": 8},
    "problems.linear_networks.StepPolynomial": lambda: {"coefficients": doubles(0, 3, 3)},
    "problems.linear_networks.balance.best_equal": lambda: {"h": 4, "T": 2},
    "problems.linear_networks.balance.cumulative_balance": lambda: {"mu": (0.1, 0.2), "S2": 1.0},
    "problems.linear_networks.balance.equal_window": lambda: {"h": 64},
    "problems.linear_networks.ensembles.paper_network": lambda: {
        "depth": 2, "h": 4, "generator": random()
    },
    "problems.linear_networks.initial.haar": lambda: {"n": 3, "generator": random()},
    "problems.linear_networks.initial.orthonormal_columns": lambda: {
        "d": 4, "h": 2, "generator": random()
    },
    "problems.linear_networks.initial.whitened_design": lambda: {
        "n": 4, "d": 2, "generator": random()
    },
    "problems.linear_networks.two_layer_orthogonal.conditional_loss": lambda: {
        "spectrum": torch.ones(2, dtype=torch.float64), "lrs": RATES
    },
    "problems.linear_networks.two_layer_orthogonal.expected_loss": lambda: TWO,
    "problems.linear_networks.two_layer_orthogonal.expected_one_step": lambda: {
        "h": 4, "step": RATES[0]
    },
    "problems.linear_networks.two_layer_orthogonal.surrogate": lambda: {
        "h": 4, "step1": RATES[0]
    },
    "problems.linear_networks.two_layer_orthogonal.script_formula": lambda: SCRIPT,
    "problems.linear_networks.three_layer_orthogonal.conditional_loss": lambda: {
        **THREE, "lrs": RATES
    },
    "problems.linear_networks.three_layer_orthogonal.expected_loss": lambda: {
        "h": 4, "lrs": RATES
    },
    "problems.linear_networks.three_layer_orthogonal.closed_form": lambda: STEP,
    "problems.linear_networks.three_layer_orthogonal.surrogate": lambda: STEP,
    "problems.linear_networks.three_layer_orthogonal.script_formula": lambda: SCRIPT,
}  # fmt: skip
LEGAL |= {
    "problems.mspbe.process.MarkovRewardProcess": lambda: {
        "inputs": torch.eye(2), "transitions": torch.tensor([[0.0, 1.0], [0.0, 0.0]]),
        "rewards": torch.zeros(2, 2), "discount": 0.9,
    },
    "problems.mspbe.sources.Known": lambda: {"process": random_walk(), "length": 20},
    "problems.mspbe.sources.Redrawn": lambda: {
        "make_process": lambda seed: random_walk(), "length": 20
    },
    "problems.mspbe.sources.Logged": lambda: {"train": from_transitions(**LOG), "discount": 0.9},
    "problems.mspbe.logged.from_transitions": lambda: dict(LOG),
    "problems.mspbe.logged.load_transitions": lambda: {"file": "log.npz"},
    "problems.mspbe.endings.check_endings": lambda: {"rows": from_transitions(**LOG)},
    "problems.mspbe.experience.outcomes": lambda: {"process": random_walk()},
    "problems.mspbe.experience.rows_of": lambda: {
        "process": random_walk(), "states": torch.tensor([0]), "next_states": torch.tensor([1])
    },
    "problems.mspbe.experience.expected": lambda: {"process": random_walk()},
    "problems.mspbe.experience.draw": lambda: {
        "process": random_walk(), "kind": "iid", "length": 20, "seed": 0
    },
    "problems.mspbe.experience.with_end": lambda: {"transitions": random_walk().transitions},
    "problems.mspbe.episodes.collect": lambda: {
        "environment": "CartPole-v1", "policy": lambda state, random: 0, "episodes": 1
    },
    "problems.mspbe.episodes.monte_carlo_returns": lambda: {"played": played(), "discount": 0.9},
    "problems.mspbe.exact.moments": lambda: {
        "features": FEATURES, "model": model(), "discount": 0.9
    },
    "problems.mspbe.exact.sampled_moments": lambda: {
        "features": ROWS["train"].inputs, "next_features": ROWS["train"].inputs,
        "rows": from_transitions(**LOG), "discount": 0.9,
    },
    "problems.mspbe.exact.mspbe": lambda: {"found": found(), "head": torch.ones(2).double()},
    "problems.mspbe.exact.best_auxiliary": lambda: {
        "found": found(), "head": torch.ones(2).double()
    },
    "problems.mspbe.exact.lstd": lambda: {"found": found()},
    "problems.mspbe.exact.msve": lambda: {
        "features": FEATURES, "head": torch.ones(2).double(), "model": model()
    },
    "problems.mspbe.exact.inverse": lambda: {"matrix": torch.eye(2).double()},
    "problems.mspbe.stability.expected_update": lambda: {"found": found(), "method": "td"},
    "problems.mspbe.stability.spectral_abscissa": lambda: {"found": found(), "method": "td"},
    "problems.mspbe.stability.threshold": lambda: {
        "found": turning(), "method": "tdc", "name": "eta", "low": 0.01, "high": 1.0
    },
    "problems.mspbe.stability.reduced": lambda: {"found": found()},
    "problems.mspbe.linear.LinearEvaluation": lambda: {"source": random_walk()},
    "problems.mspbe.methods.td": lambda: {"lr": 0.1},
    "problems.mspbe.methods.gtd2": lambda: {"lr": 0.1},
    "problems.mspbe.methods.tdc": lambda: {"lr": 0.1},
    "problems.mspbe.methods.tdrc": lambda: {"lr": 0.1},
    "problems.mspbe.methods.default_methods": lambda: {"head_lr": 0.1},
    "problems.mspbe.neural.Evaluation": lambda: {"source": Known(random_walk())},
    "problems.mspbe.neural.NeuralMSPBE": lambda: {"source": Known(random_walk())},
    "problems.mspbe.neural.check_model": lambda: {"model": model()},
    "problems.mspbe.values.LSTDValues": lambda: {"upper": "msve", "source": Known(random_walk())},
    "problems.mspbe.values.LeastSquaresValues": lambda: {"source": Known(random_walk())},
    "problems.mspbe.bodies.Layers": lambda: {"columns": 3},
    "problems.mspbe.bodies.Module": lambda: {"make_module": Net, "head": "fc"},
}  # fmt: skip
for name in ("errors", "msbe"):
    LEGAL[f"problems.mspbe.exact.{name}"] = lambda: {
        "features": FEATURES, "head": torch.ones(2).double(), "model": model(), "discount": 0.9
    }  # fmt: skip
