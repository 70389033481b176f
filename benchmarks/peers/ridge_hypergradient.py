"""The hypergradient of a log-penalty per feature, head solve included: JAX and JAXopt, float64.

The rows come in a file of NumPy's, so that both sides differentiate the same function; the value of
a piece is the gradient.
"""

import jax
import jax.numpy as jnp
import jaxopt
import numpy as np
from serve import serve, settings

jax.config.update("jax_enable_x64", True)

with np.load(settings()["file"]) as file:
    x, y, x_new, y_new, body = (
        jnp.asarray(file[name]) for name in ("x", "y", "x_new", "y_new", "body")
    )
n, d = x.shape
gram, moment = x.T @ x / n, x.T @ y / n


def outer(theta):
    """F."""
    return 0.5 * ((x_new @ theta - y_new) ** 2).mean()


def inner(theta, log_penalty):
    """g."""
    return 0.5 * ((x @ theta - y) ** 2).mean() + 0.5 * (jnp.exp(log_penalty) * theta**2).sum()


def by_cholesky(log_penalty):
    """Phi, through the factor of a Gram matrix that is there already."""
    factor = jax.scipy.linalg.cho_factor(gram + jnp.diag(jnp.exp(log_penalty)))
    return outer(jax.scipy.linalg.cho_solve(factor, moment))


def solve(product, right):
    """The adjoint, as accurate as the gradient is asked to be."""
    return jax.scipy.sparse.linalg.cg(product, right, tol=1e-10, maxiter=5000)[0]


solver = jaxopt.LBFGS(inner, maxiter=5000, tol=1e-9, implicit_diff=True, implicit_diff_solve=solve)


def by_lbfgs(log_penalty):
    """Phi, with implicit differentiation of what LBFGS found."""
    return outer(solver.run(jnp.zeros(d), log_penalty).params)


def gradient(function):
    """The piece."""
    compiled = jax.jit(jax.grad(function))
    return lambda: jax.block_until_ready(compiled(body))


serve({"JAX, Cholesky": gradient(by_cholesky), "jaxopt, LBFGS": gradient(by_lbfgs)})
