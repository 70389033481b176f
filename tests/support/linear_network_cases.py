"""Small linear networks of any shape, for several files of tests."""

import dataclasses
import itertools

import torch

from problems.linear_networks import DeepLinearProblem

SHAPES = {1: (7, 2), 2: (7, 5, 2), 3: (7, 3, 5, 2), 4: (6, 4, 7, 3, 1)}


def random(*shape, seed=0):
    source = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=source, dtype=torch.float64)


def network(depth, seed=0, rows=23):
    """Anisotropic inputs, noisy targets, another covariance of the test inputs."""
    sizes = SHAPES[depth]
    x = random(rows, sizes[0], seed=seed) @ random(sizes[0], sizes[0], seed=seed + 1)
    beta = random(sizes[0], sizes[-1], seed=seed + 2)
    y = x @ beta + 0.3 * random(rows, sizes[-1], seed=seed + 3)
    root = random(sizes[0], sizes[0], seed=seed + 4)
    weights = [
        random(a, b, seed=seed + 5 + k) / a**0.5
        for k, (a, b) in enumerate(itertools.pairwise(sizes))
    ]
    net = DeepLinearProblem.from_data(x, y, weights, beta, 0.7, root @ root.T / sizes[0])
    return net, x, y


def near(found, expected, tolerance=1e-12):
    assert found.shape == expected.shape
    scale = float(expected.detach().abs().max())
    assert scale > 0
    assert float((found - expected).detach().abs().max()) <= tolerance * scale


def after_step(net, layers, x, y, signal_only=False):
    """The test loss after one step, rates of any sign."""
    weights, gradients = list(net.weights), net.gradients(signal_only)
    for layer, rate in zip(layers, (x, y), strict=True):
        weights[layer] = weights[layer] - rate * gradients[layer]
    return dataclasses.replace(net, weights=weights).loss()
