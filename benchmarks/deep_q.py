"""Deep Q-learning of CartPole: 60 runs at once against a plain loop, one run after another.

Five pairs of rates from 12 seeds, 15,000 steps, float32 (or `--float64`). The loop is what one
writes for a single run: `gymnasium.make`, `nn.Sequential`, `torch.optim.RMSprop` and arrays as the
replay memory. It makes one run of each pair, and counts twelve times. Pieces of about 3,000 steps
take turns in one process, by CPU time; records of the library are counted.

Run: `make bench BENCH=deep_q`, or `python benchmarks/deep_q.py`. It takes two minutes of CPU time.
"""

import argparse
import statistics
import time
from collections.abc import Iterator

import gymnasium
import numpy as np
import torch
from torch import nn

import bilevel
from problems.deep_q.cartpole import cartpole
from problems.deep_q.settings import Settings

SEEDS, STEPS, PIECE = 12, 15_000, 750
ALPHA, BETA = 2.5e-4, 1.25e-3
RATES = {
    "uniform slow": (ALPHA, ALPHA),
    "uniform fast": (BETA, BETA),
    "two-timescale": (ALPHA, BETA),
    "swapped": (BETA, ALPHA),
    "uniform sqrt": ((ALPHA * BETA) ** 0.5,) * 2,
}


def network(dtype: torch.dtype) -> nn.Sequential:
    """Two hidden layers of 64."""
    layers = nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2)
    return nn.Sequential(*layers).to(dtype)


def plain(seed: int, rates: tuple[float, float], dtype: torch.dtype) -> Iterator[int]:
    """One run, step by step: yields how many steps were made."""
    settings, kind = Settings(), np.float32 if dtype == torch.float32 else np.float64
    torch.manual_seed(seed)
    random, env = np.random.default_rng(seed), gymnasium.make("CartPole-v1")
    net, target = network(dtype), network(dtype)
    target.load_state_dict(net.state_dict())
    groups = [
        {"params": net[:4].parameters(), "lr": rates[0]},
        {"params": net[4].parameters(), "lr": rates[1]},
    ]
    optimizer = torch.optim.RMSprop(groups, alpha=0.95, eps=1e-5)
    size = settings.capacity
    before, after = np.zeros((size, 4), kind), np.zeros((size, 4), kind)
    actions, rewards, ends = np.zeros(size, np.int64), np.zeros(size, kind), np.zeros(size, kind)
    at, _ = env.reset(seed=seed)
    for step in range(1, STEPS + 1):
        if random.random() < settings.exploring(step - 1):
            action = int(random.integers(2))
        else:
            with torch.no_grad():
                action = int(net(torch.as_tensor(at, dtype=dtype)).argmax())
        reached, reward, terminated, truncated, _ = env.step(action)
        i = (step - 1) % size
        before[i], after[i] = at, reached
        actions[i], rewards[i], ends[i] = action, reward, terminated
        at = env.reset()[0] if terminated or truncated else reached
        if step >= settings.start and step % settings.every == 0:
            rows = random.integers(0, min(step, size), settings.batch)
            arrays = before, actions, rewards, after, ends
            s, a, r, s2, end = (torch.from_numpy(array[rows]) for array in arrays)
            with torch.no_grad():
                t = r + settings.gamma * (1 - end) * target(s2).amax(1)
            loss = 0.5 * (net(s).gather(1, a[:, None])[:, 0] - t).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if step >= settings.start and step % settings.target_every == 0:
            target.load_state_dict(net.state_dict())
        yield step


class Turns:
    """Lets the plain loops catch up whenever the library has made a piece.

    Args:
        dtype: of both.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self.loops = [plain(0, rates, dtype) for rates in RATES.values()]
        self.steps, self.pieces = 0, list[tuple[int, float, float]]()
        self.since = time.process_time()

    def __call__(self, progress: bilevel.Progress) -> None:
        """At a record."""
        mine, steps = time.process_time() - self.since, Settings().steps(progress.step)
        began = time.process_time()
        for loop in self.loops:
            for _ in range(steps - self.steps):
                next(loop)
        other = (time.process_time() - began) * SEEDS
        if progress.step:
            self.pieces.append((steps, mine, other))
            ratio = other / mine
            print(f"to step {steps:6,}: {mine:6.1f} s, loops {other:6.1f} s, ratio {ratio:.2f}")
        self.steps, self.since = steps, time.process_time()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--float64", action="store_true")
    dtype = torch.float64 if parser.parse_args().float64 else torch.float32
    torch.set_num_threads(1)
    problem = cartpole()
    strategies = {name: problem.strategies(ALPHA, BETA)[name] for name in RATES}
    turns = Turns(dtype)
    bilevel.compare(
        problem,
        strategies,
        seeds=SEEDS,
        steps=problem.settings.updates(STEPS),
        every=PIECE,
        dtype=dtype,
        callback=turns,
    )
    whole = [piece for piece in turns.pieces if piece[0] <= STEPS]
    mine, other = (sum(piece[i] for piece in whole) for i in (1, 2))
    ratio = statistics.median(other / mine for _, mine, other in whole)
    print(f"{SEEDS * len(RATES)} runs of {whole[-1][0]:,} steps: {mine:.0f} CPU-seconds,", end=" ")
    print(f"loops {other:.0f}; median ratio of pieces {ratio:.2f}")


if __name__ == "__main__":
    main()
