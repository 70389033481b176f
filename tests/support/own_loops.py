"""Training loops as users write them, for tests."""

import torch

import bilevel
from bilevel import trees

ALPHA, BETA = 0.02, 0.1
SEEDS = [3, 0, 11, 4, 7]


def simultaneous(problem, body, head, batches, alpha=ALPHA, beta=BETA):
    """Two-timescale SGD by plain autograd; new tensors at each step."""
    for batch in batches:
        body = trees.tree_map(lambda leaf: leaf.detach().requires_grad_(), body)
        head = trees.tree_map(lambda leaf: leaf.detach().requires_grad_(), head)
        in_body, in_head = trees.leaves(body), trees.leaves(head)
        value = problem.head_objective(body, head, batch)
        slopes = torch.autograd.grad(value, in_body + in_head, materialize_grads=True)
        moved = [
            leaf.detach() - (alpha if i < len(in_body) else beta) * slope
            for i, (leaf, slope) in enumerate(zip(in_body + in_head, slopes, strict=True))
        ]
        body = trees.rebuild(body, moved[: len(in_body)])
        head = trees.rebuild(head, moved[len(in_body) :])
        yield body, head


def in_place(problem, body, head, batches, make=torch.optim.SGD, alpha=ALPHA, beta=BETA):
    """The same with an optimiser of torch, which changes the initial tensors themselves."""
    levels = [trees.leaves(body), trees.leaves(head)]
    for leaf in levels[0] + levels[1]:
        leaf.requires_grad_()
    groups = [{"params": level, "lr": lr} for level, lr in zip(levels, (alpha, beta), strict=True)]
    optimizer = make(groups)
    for batch in batches:
        optimizer.zero_grad()
        problem.head_objective(body, head, batch).backward()
        optimizer.step()
        yield body, head


def train(problem, strategy, steps=50, **options):
    options = {"seeds": SEEDS, "batch_size": 6, "every": 10, "dtype": torch.float64} | options
    return bilevel.solve(problem, strategy, steps=steps, **options)
