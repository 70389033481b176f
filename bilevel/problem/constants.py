"""Constants of a problem that error bounds rest on."""

from typing import NamedTuple


class Curvature(NamedTuple):
    r"""The eigenvalues of $g_{\theta\theta}$, over all heads.

    Attributes:
        smallest: $\mu$.
        largest: $L$; inf where it grows without bound.

    Examples:
        >>> import torch
        >>> from problems.analytic import analytic
        >>> analytic("A1").known_curvature(torch.tensor([2.0]))
        Curvature(smallest=2.0, largest=2.0)
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

    Examples:
        >>> import torch
        >>> from problems.analytic import analytic
        >>> w, theta = torch.tensor(2.0), torch.tensor(1.0)
        >>> analytic("A5").known_lipschitz(w, theta, radius=1.0)
        Lipschitz(body_gradient=1.0, head_gradient=0.0, cross=0.0, hessian=0.0, cross_norm=2.0)
    """

    body_gradient: float
    head_gradient: float
    cross: float
    hessian: float
    cross_norm: float
