"""Which hypergradient is right for a problem: what None stands for."""

from bilevel.hypergradients.base import AbstractHypergradient
from bilevel.hypergradients.envelope import Envelope
from bilevel.hypergradients.implicit import Implicit

# made once: the compiler does not make parts
ENVELOPE, IMPLICIT = Envelope(), Implicit()


def default_gradient(is_stackelberg: bool) -> AbstractHypergradient:
    """`Envelope` where F is g, else `Implicit`."""
    return ENVELOPE if is_stackelberg else IMPLICIT
