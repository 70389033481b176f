"""What do differentiable exact heads cost beside autograd through what one would write?

First `ridge_head`, beside `torch.linalg.solve`: 800 rows of M features in float64, one target or
five, ridge .1: the head, a loss, and gradients in features, targets and ridge. CPU microseconds.

Then `best_response` at 2,000 x 200 features that require gradients, of a ridge head and of five
classes: CPU milliseconds of the head with its bound, of a loss' backward pass, of `Implicit` in its
place (with the bound of its gradient), and of both passes by hand, through `torch.linalg.solve` and
100 steps of gradient descent; and the most that backward, and both by hand, hold at once, as
multiples of the features.

One thread, interleaved, medians.

Run: `make bench BENCH=exact`, or `python benchmarks/exact.py [--rounds 15]`.
"""

import argparse
import functools
import statistics
import time

import torch

import bilevel
from bilevel.core.live_bytes import LiveBytes
from bilevel.exact import ridge_head

ROWS, SIZES, OUTPUTS, REPEATS = 800, [4, 16, 32, 64, 128, 256], [None, 5], 10


def by_solve(z, t, ridge):
    """What one would write."""
    n, m = z.shape
    return torch.linalg.solve(z.mT @ z / n + ridge * torch.eye(m, dtype=z.dtype), z.mT @ t / n)


def microseconds(head, arguments):
    """CPU time of a head and its gradients."""
    begin = time.process_time()
    for _ in range(REPEATS):
        torch.autograd.grad(head(*arguments).square().sum(), arguments)
    return (time.process_time() - begin) / REPEATS * 1e6


class OfFeatures(bilevel.LinearHeadProblem):
    """A head on features that are the body."""

    def __init__(self, features, targets, **settings):
        self.inputs, self.targets = features, targets
        for name, value in settings.items():
            setattr(self, name, value)

    def data(self, seed=None):
        """The rows."""
        return {"train": bilevel.Batch(self.inputs, self.targets)}

    def init_body(self, generator):
        """The features."""
        return self.inputs.clone()

    def init_head(self, generator):
        """Zero."""
        return self.inputs.new_zeros(self.head_shape(self.inputs.shape[1]))

    def features(self, body, inputs):
        """The body."""
        return body

    def penalty(self, body):
        """Of every coefficient."""
        return 0.1

    def body_objective(self, body, head, batch):
        """F, which does not ask for the body."""
        return head.square().sum()


def by_descent(z, labels, steps=100):
    """The head of five classes, unrolled."""
    head = z.new_zeros(z.shape[1], 5, requires_grad=True)
    for _ in range(steps):
        loss = torch.nn.functional.cross_entropy(z @ head, labels) + 0.05 * head.square().sum()
        head = head - torch.autograd.grad(loss, head, create_graph=True)[0]
    return head


def timed(function):
    """What it returns, and CPU milliseconds."""
    begin = time.process_time()
    found = function()
    return found, (time.process_time() - begin) * 1e3


def held(function):
    """The most bytes that it holds at once, as a multiple of the features."""
    with LiveBytes() as memory:
        function()
    return memory.peak / (2000 * 200 * 8)


def responses(rounds):
    """The second table."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(2000, 200, generator=generator, dtype=torch.float64)
    targets, labels = z.sum(1), torch.arange(2000) % 5
    classes = OfFeatures(z, labels, criterion=bilevel.SoftmaxLoss(), outputs=5)
    sides = {
        "ridge": (OfFeatures(z, targets), lambda w: by_solve(w, targets, 0.1)),
        "softmax": (classes, lambda w: by_descent(w, labels)),
    }
    names = ["head", "backward", "Implicit", "by hand", "held", "by hand"]
    print(f"\n{'':>9}", *(f"{name:>9}" for name in names))
    for name, (problem, by_hand) in sides.items():
        found = []
        for _ in range(rounds):
            w = z.clone().requires_grad_()
            response, solved = timed(lambda w=w, p=problem: bilevel.best_response(p, w))
            loss = response.head.square().sum()
            pull = functools.partial(torch.autograd.grad, loss, w, retain_graph=True)
            whole = functools.partial(slope_by_hand, by_hand, w)
            gradient = functools.partial(bilevel.hypergradient, problem, z, bilevel.Implicit())
            times = (timed(each)[1] for each in (pull, gradient, whole))
            found.append((solved, *times, held(pull), held(whole)))
        print(f"{name:>9}", *(f"{statistics.median(x):>9.1f}" for x in zip(*found, strict=True)))


def slope_by_hand(head, w):
    """Forward and backward."""
    return torch.autograd.grad(head(w).square().sum(), w)


def main():
    """Print a line for each size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    heads_of_sizes(rounds)
    responses(max(rounds // 5, 1))


def heads_of_sizes(rounds):
    """The first table."""
    generator = torch.Generator().manual_seed(0)
    heads = {"ridge_head": ridge_head, "autograd through solve": by_solve}
    print(f"{'features':>9} {'outputs':>8}", *(f"{name:>23}" for name in heads), "   ratio")
    for outputs in OUTPUTS:
        for size in SIZES:
            shapes = [(ROWS, size), (ROWS, *([] if outputs is None else [outputs]))]
            made = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
            arguments = [*made, torch.tensor(0.1, dtype=torch.float64)]
            arguments = [x.requires_grad_() for x in arguments]
            times = {name: [] for name in heads}
            for _ in range(rounds + 1):
                for name, head in heads.items():
                    times[name].append(microseconds(head, arguments))
            first, second = (statistics.median(found[1:]) for found in times.values())
            shown = f"{size:>9} {outputs or 1:>8} {first:>20.0f} us {second:>20.0f} us"
            print(f"{shown} {first / second:>8.2f}", flush=True)


if __name__ == "__main__":
    main()
