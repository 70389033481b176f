"""Few-shot learning as one writes it in torch: batches of tasks, autograd through their heads."""

import torch

import bilevel
from bilevel.data.training_data import TrainingData
from bilevel.problem.network.hidden_layers import ACTIVATIONS
from bilevel.training.training import Training

LR, TASKS = 1e-2, 4


def trained(problem, strategy, steps, seeds):
    """Bodies before and after `steps` of `solve`, and the tasks of each step, (R, B)."""
    data = TrainingData(problem, range(seeds), torch.float64, "cpu")
    training = Training(strategy.fitted(problem), data, TASKS)
    (cohort,) = training.cohorts
    first = training.state.strategy
    batches = [cohort.sampler.indices("train", TASKS, k) for k in range(steps)]
    cohort.advance(steps)
    return first, training.state.strategy.body, batches


def by_hand(problem, seed, body, tasks, heads):
    """The body of a seed after a step of `torch.optim.Adam` on each of some lists of tasks.

    Args:
        problem: few-shot.
        seed: of the data.
        body: the first one.
        tasks: of each step.
        heads: `heads(body, design, targets, tasks)` gives theirs, (B, M + 1, ...), with a graph.
    """
    groups = problem.data(seed)
    body = {name: leaf.clone().requires_grad_() for name, leaf in body.items()}
    optimizer = torch.optim.Adam(body.values(), lr=LR)
    for some in tasks:
        (x, y), (inputs, targets) = ([leaf[some] for leaf in groups[name]]
                                     for name in ("train", "validation"))  # fmt: skip
        found = heads(body, design(problem, body, x), y, some)
        loss = losses(problem, predicted(design(problem, body, inputs), found), targets).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {name: leaf.detach() for name, leaf in body.items()}


def design(problem, body, inputs):
    """Features of all tasks and the constant one, (B, n, M + 1)."""
    hidden, sigma = inputs, ACTIVATIONS[problem.network.activation]
    for layer in range(1, len(problem.network.widths) + 1):
        hidden = sigma(hidden @ body[f"weight{layer}"] + body[f"bias{layer}"])
    return torch.cat([hidden, torch.ones_like(hidden[..., :1])], -1)


def predicted(z, head):
    """Z theta of all tasks."""
    return (z @ head.unsqueeze(2)).squeeze(2) if head.ndim == 2 else z @ head


def losses(problem, predictions, targets):
    """Of each row of each task, (B, n)."""
    if isinstance(problem.criterion, bilevel.SoftmaxLoss):
        return torch.nn.functional.cross_entropy(predictions.mT, targets, reduction="none")
    squares = 0.5 * (predictions - targets).square()
    return squares if squares.ndim == 2 else squares.sum(2)


def ridge_heads(problem):
    """Heads by (Z'Z + lambda I)^{-1} Z'y."""

    def heads(body, z, y, tasks):
        matrix = z.mT @ z + body["log_ridge"].exp() * torch.eye(z.shape[2], dtype=z.dtype)
        right = z.mT @ (y.unsqueeze(2) if y.ndim == 2 else y)
        found = torch.linalg.solve(matrix, right)
        return found.squeeze(2) if y.ndim == 2 else found

    return heads


def stepped_heads(problem, lr, steps, start):
    """Heads by `steps` gradient steps from `start(body, tasks)`, differentiated through."""

    def heads(body, z, y, tasks):
        head = start(body, tasks)
        for _ in range(steps):
            g = losses(problem, predicted(z, head), y).mean(1).sum()
            if "log_ridge" in body:
                g = g + 0.5 * body["log_ridge"].exp() / z.shape[1] * head.square().sum()
            (slope,) = torch.autograd.grad(g, head, create_graph=True)
            head = head - lr * slope
        return head

    return heads


def from_body(body, tasks):
    """ANIL: all tasks start at a head of the body."""
    head = body["start"]
    return head.expand(len(tasks), *head.shape)
