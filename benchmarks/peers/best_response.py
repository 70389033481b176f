"""Best-response training of a ReLU network with a ridge head for many seeds, in JAX.

A step is the head on all rows (normal equations in float64, Cholesky), then a body step by RMSProp
on a batch with the head held fixed (Danskin), in float32; `vmap` over seeds and `scan` over steps.
"""

from functools import partial

import jax
import jax.numpy as jnp
from serve import serve, settings

jax.config.update("jax_enable_x64", True)

chosen = settings()
COLUMNS, WIDTH, ROWS, BATCH = chosen["columns"], chosen["width"], chosen["rows"], chosen["batch"]
SEEDS, STEPS, RIDGE, RATE = chosen["seeds"], chosen["steps"], chosen["ridge"], chosen["alpha"]
DECAY, EPS = 0.99, 1e-8
keys = jax.random.split(jax.random.key(0), 5)
x = jax.random.uniform(keys[0], (ROWS, COLUMNS), jnp.float32)
y = jax.random.normal(keys[1], (ROWS,), jnp.float32)


def features(body, inputs):
    """The hidden layer and the constant feature, whose coefficient has no penalty."""
    hidden = jax.nn.relu(inputs @ body[0] + body[1])
    return jnp.concatenate([hidden, jnp.ones((len(inputs), 1), hidden.dtype)], 1)


def head(body):
    """theta*(w) on all rows."""
    z, t = features(body, x).astype(jnp.float64), y.astype(jnp.float64)
    penalty = jnp.full(WIDTH + 1, RIDGE).at[-1].set(0.0)
    factor = jax.scipy.linalg.cho_factor(z.T @ z / ROWS + jnp.diag(penalty))
    return jax.scipy.linalg.cho_solve(factor, z.T @ t / ROWS).astype(jnp.float32)


def loss(body, theta, rows):
    """Half the mean squared error of a batch."""
    return 0.5 * ((features(body, x[rows]) @ theta - y[rows]) ** 2).mean()


def step(state, rows):
    """The exact head, then the body."""
    body, moments = state
    slope = jax.grad(loss)(body, head(body), rows)
    moments = jax.tree.map(lambda v, g: DECAY * v + (1 - DECAY) * g * g, moments, slope)
    moved = jax.tree.map(lambda w, g, v: w - RATE * g / (jnp.sqrt(v) + EPS), body, slope, moments)
    return moved, moments


@partial(jax.jit, donate_argnums=0)
def advance(states, key):
    """Some steps of all seeds."""
    drawn = jax.random.randint(key, (STEPS, SEEDS, BATCH), 0, ROWS)
    return jax.lax.scan(lambda now, rows: (jax.vmap(step)(now, rows), None), states, drawn)[0]


limit = COLUMNS**-0.5
shapes = ((SEEDS, COLUMNS, WIDTH), (SEEDS, WIDTH))
bodies = tuple(
    jax.random.uniform(key, shape, jnp.float32, -limit, limit)
    for key, shape in zip(keys[2:4], shapes, strict=True)
)
kept = [(bodies, jax.tree.map(jnp.zeros_like, bodies)), keys[4]]


def piece():
    """From where the last piece ended."""
    kept[1], key = jax.random.split(kept[1])
    kept[0] = jax.block_until_ready(advance(kept[0], key))


serve({"steps": piece})
