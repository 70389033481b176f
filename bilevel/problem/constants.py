"""Constants of a problem that error bounds rest on."""

from typing import NamedTuple


class Curvature(NamedTuple):
    r"""The eigenvalues of $g_{\theta\theta}$, over all heads.

    Attributes:
        smallest: $\mu$.
        largest: $L$; inf where it grows without bound.
    """

    smallest: float
    largest: float


class Lipschitz(NamedTuple):
    r"""Constants in $\theta$, for one body; inf where there is none.

    Norms are Euclidean for gradients and spectral for second derivatives.

    Attributes:
        body_gradient: $L_{Fw}$, of $\partial_w F$.
        head_gradient: $L_{Ft}$, of $\partial_\theta F$.
        cross: $L_{gwt}$, of $g_{w\theta}$.
        hessian: $L_{gtt}$, of $g_{\theta\theta}$.
        cross_norm: $B$, a bound on $\lVert g_{w\theta}\rVert$ itself.
    """

    body_gradient: float
    head_gradient: float
    cross: float
    hessian: float
    cross_norm: float
