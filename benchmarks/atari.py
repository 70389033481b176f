"""Deep Q-learning of an Atari game: agent steps per CPU-second, hours of ten million frames.

1. The convolution of three runs, forward and with its derivatives: one grouped convolution, as
   torch maps it over runs, against one after the other.
2. ALE alone, random actions.
3. 32 transitions of a replay memory: one `index_select` of single frames, against advanced
   indexing; and what a full memory takes, computed and resident.
4. Whole trainings of one run each, all of it counted: acting, remembering, updates; for a plain
   loop over an `nn.Module` with `torch.optim.RMSprop` on the same environment and memory, too.

CPU time, one thread, pieces that take turns in one process, medians.

Run: `make bench BENCH=atari`, or `python benchmarks/atari.py [--game breakout] [--pieces 7]`.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from bilevel.data.training_data import TrainingData
from bilevel.training.training import Training
from problems.deep_q.arcade import Arcade
from problems.deep_q.atari import Atari, atari
from problems.deep_q.convolutional import convolved
from problems.deep_q.frames import FrameRing

ALPHA, BETA = 2.5e-4, 1.25e-3
THREE = ["uniform slow", "two-timescale", "head exact"]
START, PIECE = 200, 40
"""Agent steps before the first update, and updates of a piece: 160 agent steps."""
MILLIONS = 10


def medians(contenders: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """CPU-seconds of each, taking turns."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, call in contenders.items():
            began = time.process_time()
            call()
            times[name].append(time.process_time() - began)
    return {name: statistics.median(some[1:]) for name, some in times.items()}


def convolutions(rounds: int) -> None:
    """Print what the convolution of three runs costs."""
    source = torch.Generator().manual_seed(0)
    images = torch.rand(3, 32, 4, 84, 84, generator=source)
    weight = torch.rand(3, 16, 4, 8, 8, generator=source).requires_grad_()
    bias = torch.zeros(3, 16, requires_grad=True)

    def forward(one: Callable[..., Tensor]) -> Tensor:
        return torch.func.vmap(lambda x, w, b: one(x, w, b, 4))(images, weight, bias)

    def both(one: Callable[..., Tensor]) -> None:
        torch.autograd.grad(forward(one).square().sum(), (weight, bias))

    plain = functional.conv2d
    found = medians(
        {
            "grouped": lambda: forward(plain),
            "in turn": lambda: forward(convolved),
            "grouped, with derivatives": lambda: both(plain),
            "in turn, with derivatives": lambda: both(convolved),
        },
        rounds,
    )
    for name, seconds in found.items():
        print(f"convolution of 32, {name}: {seconds / 3 * 1e3:.1f} ms a run")


def resident() -> int | None:
    """Bytes of this process in memory, where Linux says so."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    except OSError:
        return None


def memory(game: str, rounds: int) -> None:
    """Print what ALE and a memory cost."""
    arcade, source = Arcade([0], game=game), np.random.default_rng(0)
    before = resident()
    ring = FrameRing(arcade.reset(), 20_000, arcade)

    def play() -> None:
        for action in source.integers(0, arcade.actions, 500):
            arcade.step(torch.tensor([action]))

    found = medians({"ALE": play}, max(3, rounds // 2))
    print(f"ALE alone: {500 / found['ALE']:,.0f} agent steps per CPU-second")
    arcade.reset()
    for action in source.integers(0, arcade.actions, 2_000):
        moved = arcade.step(torch.tensor([action]))
        ring.push(moved, moved.rewards)
    numbers = torch.from_numpy(source.random((1, 32)))
    images = ring.frames[:-1].view(1, 20_000, 84, 84)
    slots = torch.from_numpy(source.integers(4, 1_900, 32))

    def advanced() -> Tensor:
        return images[0, slots[:, None] + torch.arange(-3, 2)]

    found = medians({"memory": lambda: ring.draw(numbers), "advanced": advanced}, 200)
    print(f"32 transitions from the memory: {found['memory'] * 1e3:.2f} ms,", end=" ")
    print(f"frames alone by advanced indexing: {found['advanced'] * 1e3:.2f} ms")
    ring.frames[2_001:-1] = 1
    for beside in (ring.actions, ring.rewards, ring.cut, ring.ages, ring.log):
        beside += np.ones((), beside.dtype)
    after = resident()
    taken = "" if before is None or after is None else f", {(after - before) / 1e6:.1f} MB resident"
    print(f"memory of 20,000 transitions: {ring.nbytes / 1e6:.1f} MB computed{taken}")


def by_hand(problem: Atari) -> Iterator[None]:
    """A plain loop over one run of the same game, update by update."""
    settings = problem.settings
    torch.manual_seed(0)
    arcade, source = Arcade([0], game=problem.game), np.random.default_rng(0)
    observation = arcade.reset()
    ring = FrameRing(observation, settings.capacity)

    def module() -> nn.Sequential:
        layers = nn.Conv2d(4, 16, 8, 4), nn.ReLU(), nn.Flatten(), nn.Linear(6400, 256), nn.ReLU()
        return nn.Sequential(*layers, nn.Linear(256, arcade.actions))

    net, target = module(), module()
    target.load_state_dict(net.state_dict())
    rates = [{"params": net[:5].parameters(), "lr": ALPHA}, {"params": net[5].parameters()}]
    optimizer = torch.optim.RMSprop(rates, lr=BETA, alpha=0.95, eps=1e-5)
    for step in range(10**9):
        with torch.no_grad():
            action = net(observation / 255).argmax(1)
        if source.random() < settings.exploring(step):
            action = torch.from_numpy(source.integers(0, arcade.actions, 1))
        moved = arcade.step(action)
        ring.push(moved, moved.rewards.sign())
        observation = moved.now
        if step < settings.start or step % settings.every:
            continue
        some = ring.draw(torch.from_numpy(source.random((1, settings.batch))))
        s, a, r, reached, continues = (part[0] for part in some)
        with torch.no_grad():
            t = r + settings.gamma * continues * target(reached / 255).amax(1)
        loss = 0.5 * (net(s / 255).gather(1, a[:, None])[:, 0] - t).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield


def trainings(game: str, pieces: int) -> None:
    """Print how fast three configurations are, and a plain loop."""
    problem = atari(game=game, start=START, capacity=20_000)
    strategies = problem.strategies(ALPHA, BETA)
    advances: dict[str, Callable[[], object]] = {}
    for name in THREE:
        data = TrainingData(problem, [0], torch.float32, "cpu", experienced=True)
        cohort = Training(strategies[name].fitted(problem), data, None).cohorts[0]
        cohort.advance(1)
        advances[name] = lambda cohort=cohort: cohort.advance(PIECE)  # type: ignore[misc]
    loop = by_hand(problem)
    next(loop)
    advances["plain loop"] = lambda: [next(loop) for _ in range(PIECE)]
    found = medians(advances, pieces)
    for name, seconds in found.items():
        speed = PIECE * problem.settings.every / seconds
        hours = MILLIONS * 1e6 / 4 / speed / 3600
        print(f"{name}: {speed:.0f} agent steps per CPU-second;", end=" ")
        print(f"{MILLIONS} million frames of a run in {hours:.1f} hours")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--game", default="breakout")
    parser.add_argument("--pieces", type=int, default=7)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    convolutions(3 * asked.pieces)
    memory(asked.game, asked.pieces)
    trainings(asked.game, asked.pieces)


if __name__ == "__main__":
    main()
