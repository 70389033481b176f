"""Constants of a problem that error bounds rest on."""

from typing import NamedTuple


class Curvature(NamedTuple):
    """The eigenvalues of d2_{theta theta} g, over all heads.

    Attributes:
        smallest: mu.
        largest: L; inf where it grows without bound.
    """

    smallest: float
    largest: float


class Lipschitz(NamedTuple):
    """Constants in theta, for one body; inf where there is none.

    Norms are Euclidean for gradients and spectral for second derivatives.

    Attributes:
        body_gradient: L_Fw, of d_w F.
        head_gradient: L_Ft, of d_theta F.
        cross: L_gwt, of d2_{w theta} g.
        hessian: L_gtt, of d2_{theta theta} g.
        cross_norm: B, a bound on |d2_{w theta} g| itself.
    """

    body_gradient: float
    head_gradient: float
    cross: float
    hessian: float
    cross_norm: float
