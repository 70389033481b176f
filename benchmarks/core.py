"""How much faster is one training of 30 seeds than the loop a user would write?

The loop: `nn.Module` and `torch.optim.RMSprop` with a parameter group for each level, one seed
after another. Both train a 10-64-1 ReLU network on batches of 32, two-timescale. Times are per step
and seed, all loop costs included (drawing and gathering rows too), CPU time of one thread, rounds
interleaved, medians. JAX (`vmap`, `scan`) stands beside them after `make bench-peers`.

Run: `make bench`, or `python benchmarks/core.py [--eager] [--rounds 9] [--steps 260]`.
"""

from contest import RIDGE, UserLoop, run

from bilevel.problem.network.hidden_layers import Network
from problems.regression import friedman1

WIDTH, BATCH = 64, 32


def main() -> None:
    """Print the ratios."""
    problem = friedman1(width=WIDTH, ridge=RIDGE)
    assert problem.network == Network(WIDTH, 1, "relu")
    rows = problem.data(0)["train"]
    inputs, targets = rows.inputs.float(), rows.targets.float().unsqueeze(1)
    user = UserLoop.dense(inputs, targets, (WIDTH,), BATCH)
    run(__doc__, problem, user, (10, WIDTH, 1), BATCH, steps=260, warm_up=20)


if __name__ == "__main__":
    main()
