"""MSPBE and its gradients in NumPy: loops over states, and the complex step."""

import numpy as np

SIGMA = {"tanh": np.tanh, "softplus": lambda x: np.log1p(np.exp(x))}


def features(weights, inputs, activation):
    for weight in weights:
        inputs = SIGMA[activation](inputs @ weight)
    return inputs


def reference_moments(weights, process, activation):
    """A, b and C from the model, by loops over states."""
    model = process.model
    z = features(weights, model.inputs.numpy(), activation)
    d, p, r = (x.numpy() for x in (model.weights, model.transitions, model.rewards))
    a = sum(d[s] * np.outer(z[s], z[s] - process.discount * p[s] @ z) for s in range(len(d)))
    b = sum(d[s] * r[s] * z[s] for s in range(len(d)))
    c = sum(d[s] * np.outer(z[s], z[s]) for s in range(len(d)))
    return z, a, b, c


def reference_mspbe(weights, theta, process, activation):
    _, a, b, c = reference_moments(weights, process, activation)
    return (b - a @ theta) @ np.linalg.solve(c, b - a @ theta)


def complex_step(function, arrays):
    """The gradient of a real analytic function of arrays."""
    found = []
    for k, array in enumerate(arrays):
        slope = np.zeros_like(array)
        for place in np.ndindex(*array.shape):
            moved = [x.astype(complex) for x in arrays]
            moved[k][place] += 1e-30j
            slope[place] = function(moved).imag / 1e-30
        found.append(slope)
    return found


def relative(found, expected):
    found, expected = (np.concatenate([np.ravel(x) for x in y]) for y in (found, expected))
    assert np.abs(expected).max() > 1e-3
    return np.abs(found - expected).max() / np.abs(expected).max()
