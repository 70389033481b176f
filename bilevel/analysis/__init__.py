"""Why a strategy wins: what the objectives look like around the iterates of a training."""

from bilevel.analysis.curvatures import Curvatures as Curvatures
from bilevel.analysis.curvatures import curvature as curvature
from bilevel.analysis.envelopes import MoreauEnvelope as MoreauEnvelope
from bilevel.analysis.envelopes import moreau as moreau
from bilevel.analysis.landscapes import Landscape as Landscape
from bilevel.analysis.landscapes import landscape as landscape
from bilevel.analysis.points import Iterates as Iterates
from bilevel.analysis.points import iterates as iterates
from bilevel.analysis.rates import Convergence as Convergence
from bilevel.analysis.rates import convergence as convergence
from bilevel.analysis.rates import theorem_schedules as theorem_schedules
from bilevel.analysis.why import explain as explain
