"""For a training loop of one's own: groups, rates, exact heads, and a problem from a module."""

from bilevel.loops.balanced import balanced_rates as balanced_rates
from bilevel.loops.groups import param_groups as param_groups
from bilevel.loops.module_problem import from_module as from_module
from bilevel.loops.rates import group_rates as group_rates
from bilevel.loops.refit import HeadRefit as HeadRefit
