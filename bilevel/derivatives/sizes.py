"""How much memory oracles take."""

from torch import Tensor

from bilevel import trees
from bilevel.core.live_bytes import LiveBytes
from bilevel.data.rows import Rows
from bilevel.derivatives import reverse
from bilevel.derivatives.oracles import Oracles
from bilevel.problem.linear_head import LinearHeadProblem
from bilevel.trees import Tree


def graph_bytes(oracles: Oracles, body: Tree, head: Tree, rows: Rows) -> int:
    """How much memory a joint gradient (of the first chunk) takes, all told.

    Its graph, the gradients, and of a linear head the features and the predictions, which autograd
    need not have saved. At its peak an evaluation takes about twice as much.
    """
    rows = rows.first(body)

    def made() -> list[Tensor]:
        found = trees.leaves(oracles.joint_gradient(body, head, rows))
        if oracles.features is not None:
            design = oracles.features.pulled(body, rows).parts[0]  # those of the gradient
            # those of two heads are kept while features are shared
            predictions = design.new_empty(2, *design.shape[:2], *head.shape[2:])
            found = [*found, design, predictions]
        return found

    with oracles.sharing():
        return reverse.graph_bytes(made, trees.leaves(rows.groups))


def hessian_bytes(oracles: Oracles, body: Tree, head: Tree, rows: Rows) -> int:
    """How much memory `head_hessian` takes at its peak: predictions for each number, and so on.

    None of a linear head, whose matrix comes from the features.
    """
    if isinstance(oracles.problem, LinearHeadProblem):
        return 0
    with LiveBytes() as live:
        oracles.head_hessian(body, head, rows)
    return int(live.peak)
