"""Neural TDC for many seeds, one sample a step, two-layer formulas: `vmap` and `scan` of JAX."""

from functools import partial

import jax
import jax.numpy as jnp
from serve import serve, settings

chosen = settings()
COLUMNS, WIDTH, ROWS = chosen["columns"], chosen["width"], chosen["rows"]
SEEDS, STEPS, DISCOUNT = chosen["seeds"], chosen["steps"], chosen["discount"]
ALPHA, BETA, ZETA = chosen["alpha"], chosen["beta"], chosen["zeta"]


def step(rows, state, row):
    """Algorithm 1 for one seed."""
    (weight, theta, omega), (x, x_next, reward) = state, (column[row] for column in rows)
    phi, phi_next = jnp.tanh(x @ weight), jnp.tanh(x_next @ weight)
    q = phi @ omega
    delta = reward + DISCOUNT * (phi_next @ theta) - phi @ theta
    here = ((delta - q) * omega - q * theta) * (1 - phi * phi)
    there = DISCOUNT * q * theta * (1 - phi_next * phi_next)
    return (
        weight - ALPHA * (jnp.outer(x, here) + jnp.outer(x_next, there)),
        theta + BETA * (delta * phi - DISCOUNT * q * phi_next),
        omega + ZETA * (delta - q) * phi,
    )


keys = jax.random.split(jax.random.key(0), 5)
rows = (
    jax.random.normal(keys[0], (ROWS, COLUMNS)),
    jax.random.normal(keys[1], (ROWS, COLUMNS)),
    jax.random.normal(keys[2], (ROWS,)),
)
weights = 0.3 * jax.random.normal(keys[3], (SEEDS, COLUMNS, WIDTH))
kept = [(weights, jnp.zeros((SEEDS, WIDTH)), jnp.zeros((SEEDS, WIDTH))), keys[4]]


@partial(jax.jit, donate_argnums=0)
def advance(states, key):
    """Some steps of all seeds."""
    drawn = jax.random.randint(key, (STEPS, SEEDS), 0, ROWS)
    every = jax.vmap(partial(step, rows))
    return jax.lax.scan(lambda now, row: (every(now, row), None), states, drawn)[0]


def piece():
    """From where the last piece ended."""
    kept[1], key = jax.random.split(kept[1])
    kept[0] = jax.block_until_ready(advance(kept[0], key))


serve({"steps": piece})
