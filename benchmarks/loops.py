"""What does `HeadRefit` cost a loop in plain torch?

The same loop with and without it: AdamW, two rates by `param_groups`, batches of 64 images or 32
sequences. A CNN on Fashion-MNIST, of Debian's package or downloaded: its classes by `SoftmaxLoss`
(4,096 rows, whose features are computed anew) and their one-hot codes by `SquaredError` (sums of
all rows); a transformer on sequences whose next token is the one two places before. CPU time of one
thread, in turns of a few steps, the median over rounds; a round has one refit: for the classes of
images once an epoch. A refit of classes costs about rows / (2 every batch) of the loop for the
features, and the solve: seldom is cheap.

Run: `make bench BENCH=loops`, or `python benchmarks/loops.py [--rounds 2]`.
"""

import argparse
import contextlib
import statistics
import time

import torch
from torch import nn

from bilevel import loops
from bilevel.errors import MissingDataError
from problems.images import load
from problems.images.sources import FASHION_MNIST

TURN, WARM_UP = 10, 20
VOCABULARY, LENGTH = 32, 32


class CNN(nn.Module):
    """Two convolutions and two layers."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(32 * 49, 128), nn.ReLU()),
        )
        self.head = nn.Linear(128, 10)

    def forward(self, images):
        """Logits of ten classes."""
        return self.head(self.body(images))


class Transformer(nn.Module):
    """Two blocks of attention."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 64)
        self.place = nn.Parameter(torch.randn(LENGTH, 64))
        block = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.1, batch_first=True)
        self.blocks = nn.TransformerEncoder(block, 2, enable_nested_tensor=False)
        self.head = nn.Linear(64, VOCABULARY)

    def forward(self, tokens):
        """Logits of the next token."""
        return self.head(self.blocks(self.embed(tokens) + self.place))


def images():
    """Fashion-MNIST, standardised, and its labels."""
    pixels, labels = load(FASHION_MNIST).train
    x = torch.tensor(pixels).float().reshape(-1, 1, 28, 28) / 255
    return (x - FASHION_MNIST.mean[0]) / FASHION_MNIST.deviation[0], torch.tensor(labels).long()


def image_rows(one_hot):
    """Draws batches of images."""
    x, labels = images()
    y = nn.functional.one_hot(labels, 10).float() if one_hot else labels

    def draw(generator):
        some = torch.randint(len(x), (64,), generator=generator)
        return x[some], y[some]

    return draw


def token_rows():
    """Draws batches of sequences."""

    def draw(generator):
        tokens = torch.randint(VOCABULARY, (32, LENGTH), generator=generator)
        return tokens, tokens.roll(2, 1)

    return draw


def loss_of(outputs, targets):
    """Squared error or cross entropy, at every position."""
    if targets.is_floating_point():
        return nn.functional.mse_loss(outputs, targets)
    return nn.functional.cross_entropy(outputs.flatten(0, -2), targets.flatten())


class Loop:
    """A loop in plain torch."""

    def __init__(self, make, draw, every):
        torch.manual_seed(0)
        self.model, self.draw = make(), draw
        self.generator = torch.Generator().manual_seed(0)
        groups = loops.param_groups(self.model, "head", 1e-3, 1e-2)
        self.optimizer = torch.optim.AdamW(groups)
        self.refit = loops.HeadRefit(self.model, "head", 1e-3, every) if every else None

    def seconds(self, steps):
        """CPU time of some steps; drawing rows is not counted."""
        rows = [self.draw(self.generator) for _ in range(steps)]
        begin = time.process_time()
        for x, y in rows:
            loss_of(self.model(x), y).backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            if self.refit is not None:
                self.refit.step(y)
        return time.process_time() - begin


def overhead(make, draw, every, rounds):
    """Milliseconds of a step without, and what a refit every so many steps adds, in per cent."""
    sides = [Loop(make, draw, 0), Loop(make, draw, every)]
    for side in sides:
        side.seconds(WARM_UP)
    found, plain = [], []
    for _ in range(rounds):
        times = [0.0, 0.0]
        for turn in range(every // TURN):
            for i in (0, 1) if turn % 2 else (1, 0):
                times[i] += sides[i].seconds(TURN)
        found.append(times[1] / times[0] - 1)
        plain.append(times[0] / every)
    return 1e3 * statistics.median(plain), 100 * statistics.median(found)


def main():
    """Print a line for each case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    print(f"{'':>32} {'every':>6} {'a step':>9} {'overhead':>9}")
    cases = [
        ("CNN, ten classes", CNN, lambda: image_rows(False), 940),
        ("CNN, squared error", CNN, lambda: image_rows(True), 50),
        ("transformer, 32 tokens", Transformer, token_rows, 200),
    ]
    for name, make, rows, every in cases:
        with contextlib.suppress(MissingDataError):
            step, more = overhead(make, rows(), every, rounds)
            print(f"{name:>32} {every:>6} {step:>6.1f} ms {more:>7.1f} %", flush=True)


if __name__ == "__main__":
    main()
