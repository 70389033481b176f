"""Two-timescale RMSProp of dense ReLU networks, many seeds: `vmap` and `scan` of JAX, float32."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
from serve import serve, settings

chosen = settings()
SIZES, BATCH, ROWS = tuple(chosen["sizes"]), chosen["batch"], chosen["rows"]
SEEDS, STEPS = chosen["seeds"], chosen["steps"]
ALPHA, BETA, RIDGE = chosen["alpha"], chosen["beta"], chosen["ridge"]
DECAY, EPS = 0.99, 1e-8


def start(key):
    """Body, head, and their moments, for one seed."""
    layers = []
    for fan_in, width in itertools.pairwise(SIZES):
        key, one, two = jax.random.split(key, 3)
        limit = fan_in**-0.5
        weight = jax.random.uniform(one, (fan_in, width), minval=-limit, maxval=limit)
        layers.append((weight, jax.random.uniform(two, (width,), minval=-limit, maxval=limit)))
    levels = layers[:-1], layers[-1]
    return levels, jax.tree.map(jnp.zeros_like, levels)


def loss(body, head, x, y):
    """Half the mean squared error and the ridge of the head's weights."""
    for weight, bias in body:
        x = jax.nn.relu(x @ weight + bias)
    error = x @ head[0] + head[1] - y
    return 0.5 * (error**2).sum(1).mean() + 0.5 * RIDGE * (head[0] ** 2).sum()


def moved(level, moments, slope, rate):
    """A step of RMSProp."""
    moments = jax.tree.map(lambda v, g: DECAY * v + (1 - DECAY) * g * g, moments, slope)
    level = jax.tree.map(lambda w, g, v: w - rate * g / (jnp.sqrt(v) + EPS), level, slope, moments)
    return level, moments


def simultaneous(x, y, state, rows):
    """Both levels by the gradients at the old ones."""
    (body, head), (of_body, of_head) = state
    slopes = jax.grad(loss, (0, 1))(body, head, x[rows], y[rows])
    body, of_body = moved(body, of_body, slopes[0], ALPHA)
    head, of_head = moved(head, of_head, slopes[1], BETA)
    return (body, head), (of_body, of_head)


def alternating(x, y, state, rows):
    """The head by its gradient at the new body."""
    (body, head), (of_body, of_head) = state
    body, of_body = moved(body, of_body, jax.grad(loss)(body, head, x[rows], y[rows]), ALPHA)
    slope = jax.grad(loss, 1)(body, head, x[rows], y[rows])
    head, of_head = moved(head, of_head, slope, BETA)
    return (body, head), (of_body, of_head)


def training(step):
    """The piece: some steps of all seeds, from where the last piece ended."""
    keys = jax.random.split(jax.random.key(0), 4)
    x = jax.random.uniform(keys[0], (ROWS, SIZES[0]))
    y = jax.random.normal(keys[1], (ROWS, SIZES[-1]))

    @partial(jax.jit, donate_argnums=0)
    def advance(states, key):
        drawn = jax.random.randint(key, (STEPS, SEEDS, BATCH), 0, ROWS)
        every = jax.vmap(partial(step, x, y))
        return jax.lax.scan(lambda now, rows: (every(now, rows), None), states, drawn)[0]

    kept = [jax.vmap(start)(jax.random.split(keys[2], SEEDS)), keys[3]]

    def piece():
        kept[1], key = jax.random.split(kept[1])
        kept[0] = jax.block_until_ready(advance(kept[0], key))

    return piece


serve({step.__name__: training(step) for step in (simultaneous, alternating)})
