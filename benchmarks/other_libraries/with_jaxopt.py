"""What JAXopt and optimistix return: implicit gradients at the solved head.

Run: pip install jax==0.10.2 jaxopt==0.8.5 optimistix==0.1.0 && python with_jaxopt.py
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import jaxopt
import numpy as np
import optimistix
from cases import Case, show, versions


def custom_root(case: Case, double: bool = True, **options: Any) -> np.ndarray:
    """JAXopt's `custom_root`, which is given the exact head."""
    with jax.enable_x64(double):
        c = {name: jnp.asarray(value) for name, value in case.constants.items()}
        condition = jax.grad(lambda theta, w: case.g(w, theta, c))

        @jaxopt.implicit_diff.custom_root(condition, **options)
        def head(start: jax.Array, w: jax.Array) -> jax.Array:
            return jnp.asarray(case.theta)

        def phi(w: jax.Array) -> jax.Array:
            return case.F(w, head(jnp.zeros_like(jnp.asarray(case.theta)), w), c)

        return np.asarray(jax.grad(phi)(jnp.asarray(case.w)))


def lbfgs(case: Case) -> np.ndarray:
    """JAXopt's `LBFGS` with its own settings, differentiated implicitly."""
    with jax.enable_x64(True):
        c = {name: jnp.asarray(value) for name, value in case.constants.items()}
        solver = jaxopt.LBFGS(lambda theta, w: case.g(w, theta, c))

        def phi(w: jax.Array) -> jax.Array:
            return case.F(w, solver.run(jnp.zeros_like(jnp.asarray(case.theta)), w).params, c)

        return np.asarray(jax.grad(phi)(jnp.asarray(case.w)))


def minimise(case: Case, tolerance: float) -> np.ndarray:
    """Optimistix: `minimise` by BFGS, with its default adjoint (implicit)."""
    with jax.enable_x64(True):
        c = {name: jnp.asarray(value) for name, value in case.constants.items()}
        solver = optimistix.BFGS(rtol=tolerance, atol=tolerance)

        def phi(w: jax.Array) -> jax.Array:
            found = optimistix.minimise(
                lambda theta, w: case.g(w, theta, c),
                solver,
                jnp.zeros_like(jnp.asarray(case.theta)),
                args=w,
                max_steps=10_000,
            )
            return case.F(w, found.value, c)

        return np.asarray(jax.grad(phi)(jnp.asarray(case.w)))


if __name__ == "__main__":
    versions("jax", "jaxopt", "optimistix", "lineax")
    cg = functools.partial(jaxopt.linear_solve.solve_cg, tol=1e-12, maxiter=1000)
    show("custom_root, default solve, float32", functools.partial(custom_root, double=False))
    show("custom_root, default solve", custom_root)
    show(
        "custom_root, solve_cg", functools.partial(custom_root, solve=jaxopt.linear_solve.solve_cg)
    )
    show("custom_root, solve_cg(tol=1e-12)", functools.partial(custom_root, solve=cg))
    lu = functools.partial(custom_root, solve=jaxopt.linear_solve.solve_lu)
    show("custom_root, solve_lu", lu)
    show("LBFGS().run, default", lbfgs)
    for tolerance in (1e-6, 1e-12):
        show(
            f"optimistix BFGS, tolerance {tolerance:.0e}",
            functools.partial(minimise, tolerance=tolerance),
        )
