"""Small problems for tests: few rows, float64, every dimension different.

Rows N = 23 (validation 7, test 11), inputs D = 3, features M = 4, outputs K = 2.
"""

import numpy as np
import torch

import bilevel
from bilevel.data import sampler as sampler_module
from bilevel.data.training_data import TrainingData

ROUNDING = ("head_gap", "head_residual", "head_bound", "gradient_gap", "gradient_bound")
"""Records that are rounding themselves at an exact head."""

N, VALIDATION, TEST, D, M, K = 23, 7, 11, 3, 4, 2


def doubles(seed, *shape):
    """Standard normal numbers, float64."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def supervised(seed, rows, outputs=None):
    """Inputs (rows, D) and noisy targets of a smooth function of them."""
    x = doubles([seed, 1], rows, D)
    columns = 1 if outputs is None else outputs
    y = torch.sin(x @ doubles(7, D, columns)) + 0.1 * doubles([seed, 2], rows, columns)
    return bilevel.Batch(x, y[:, 0] if outputs is None else y)


def grouped(seed, outputs=None):
    """All three groups."""
    sizes = {"train": N, "validation": VALIDATION, "test": TEST}
    return {g: supervised(10 * seed + i, n, outputs) for i, (g, n) in enumerate(sizes.items())}


def as_maps(folder, groups, dtype=np.float64, order="C", mode="r"):
    """The groups as memory maps of files in a folder."""

    def one(array, name):
        path = folder / f"{name}.npy"
        np.save(path, np.asarray(array.numpy().astype(dtype), order=order))
        return np.load(path, mmap_mode=mode)

    return {
        name: bilevel.Batch(*(one(leaf, f"{name}{i}") for i, leaf in enumerate(group)))
        for name, group in groups.items()
    }


class Smooth(bilevel.LinearHeadProblem):
    """Features tanh(x W + b); any attribute can be set by keyword."""

    ridge = 0.1
    groups = None

    def __init__(self, **attributes):
        for name, value in attributes.items():
            setattr(self, name, value)

    def data(self, seed=None):
        return self.groups or grouped(0 if seed is None else seed + 1, self.outputs)

    def init_body(self, generator):
        return {
            "weight": torch.randn(D, M, generator=generator, dtype=torch.float64),
            "bias": torch.randn(M, generator=generator, dtype=torch.float64),
        }

    def init_head(self, generator):
        shape = self.head_shape(M + self.fit_bias)
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    def features(self, body, inputs):
        return torch.tanh(inputs @ body["weight"] + body["bias"])


class Relu(bilevel.LinearHeadProblem):
    """Regression (8) of the paper: Z = relu(X W), on given arrays and from a given point."""

    def __init__(self, x, y, weight, theta, ridge, body_set=None, head_set=None):
        self.arrays, self.start, self.ridge = bilevel.Batch(x, y), (weight, theta), ridge
        self.body_set = body_set or bilevel.Everywhere()
        self.head_set = head_set or bilevel.Everywhere()

    def data(self, seed=None):
        return {"train": self.arrays}

    def init_body(self, generator):
        return self.start[0].clone()

    def init_head(self, generator):
        return self.start[1].clone()

    def features(self, body, inputs):
        return torch.relu(inputs @ body)


class General(bilevel.StackelbergProblem):
    """A tree-shaped head {"slope": (D,), "offset": ()} that is not linear in features.

    `power=2` makes g quadratic in the head, `power=4` not. The body's leaf "idle" is not used.
    """

    def __init__(self, power=4, groups=None):
        self.power, self.groups = power, groups

    def data(self, seed=None):
        return self.groups or grouped(0 if seed is None else seed + 1)

    def init_body(self, generator):
        return {
            "scale": torch.randn(D, generator=generator, dtype=torch.float64),
            "nested": {"shift": torch.randn((), generator=generator, dtype=torch.float64)},
            "idle": torch.zeros(2, dtype=torch.float64),
        }

    def init_head(self, generator):
        return {
            "slope": torch.randn(D, generator=generator, dtype=torch.float64),
            "offset": torch.randn((), generator=generator, dtype=torch.float64),
        }

    def head_objective(self, body, head, batch):
        return self._loss(body, head, batch["train"], 0.3)

    def _loss(self, body, head, rows, ridge):
        x = torch.sin(rows.inputs * body["scale"] + body["nested"]["shift"])
        residual = x @ head["slope"] + head["offset"] - rows.targets
        penalty = (head["slope"] ** 2).sum() + head["offset"] ** 2
        return (residual**self.power).mean() / self.power + 0.5 * ridge * penalty


class TrueBilevel(General):
    """F is the validation loss of `General`, without a penalty."""

    def body_objective(self, body, head, batch):
        return self._loss(body, head, batch["validation"], 0.0)


class Scalar(bilevel.StackelbergProblem):
    """No data, 0-dim body and head: g = 1/2 (w theta - 1)^2 + theta^2 / 2 + 0.05 w^2 (Lemma 4.1).

    Without sets, so that large steps diverge; starts are uniform on [1, 2] x [0, 1].
    """

    def data(self, seed=None):
        return {}

    def init_body(self, generator):
        return 1 + torch.rand((), generator=generator, dtype=torch.float64)

    def init_head(self, generator):
        return torch.rand((), generator=generator, dtype=torch.float64)

    def head_objective(self, body, head, batch):
        return 0.5 * (body * head - 1) ** 2 + 0.5 * head**2 + 0.05 * body**2


class Noisy(Scalar):
    """`Scalar` with Gaussian slopes {"body": (), "head": ()} in both levels."""

    def noise(self, generator, steps):
        draw = torch.randn(steps, 2, generator=generator, dtype=torch.float64)
        return {"body": draw[:, 0], "head": draw[:, 1]}

    def head_objective(self, body, head, batch):
        slopes = batch["noise"]
        smooth = super().head_objective(body, head, batch)
        return smooth + slopes["body"] * body + slopes["head"] * head


def sampler(problem, seeds=(0,), batch_size=None, groups=("train", "validation")):
    """A float64 sampler of a problem."""
    data = TrainingData(problem, list(seeds), torch.float64, "cpu")
    return sampler_module.Sampler(data, batch_size, groups)


def points(problem, seeds=(0,)):
    """Initial bodies and heads of the seeds, leading R."""
    data = TrainingData(problem, list(seeds), torch.float64, "cpu")
    return data.initial(problem.init_body, "body"), data.initial(problem.init_head, "head")
