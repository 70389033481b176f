"""Why a pair of rates is good: the head on its way, both curvatures, and the exact head."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bilevel import trees
from bilevel.analysis.advice.setting import Pair, Setting
from bilevel.analysis.advice.trials import as_losses
from bilevel.analysis.points import Iterates, point_of, whole
from bilevel.analysis.spectra import ends_of
from bilevel.data.training_data import TrainingData
from bilevel.derivatives.body_products import BodyProducts
from bilevel.errors import BilevelError
from bilevel.strategies import BestResponse
from bilevel.training.recorder import record_steps
from bilevel.training.training import Training

RECORDS = 5
TOLERANCE, PRODUCTS = 1e-2, 60


class HeadGap(NamedTuple):
    r"""How far heads are from the exact ones of their bodies.

    Attributes:
        steps: of the records.
        values: medians over seeds of $\lVert\theta - \theta^*(w)\rVert$.
    """

    steps: list[int]
    values: list[float]


class BlockCurvatures(NamedTuple):
    """Largest eigenvalues of the Hessian of g where trainings ended, medians over seeds.

    Attributes:
        body: of g_ww, to a hundredth of it.
        head: of g_tt, likewise.
    """

    body: float
    head: float


class Way(NamedTuple):
    """What is seen along a training.

    Attributes:
        head_gap: None where exact heads are not found in records.
        curvatures: None where heads are those of tasks.
    """

    head_gap: HeadGap | None
    curvatures: BlockCurvatures | None


def way(setting: Setting, data: TrainingData, pair: Pair, steps: int) -> Way:
    """Along a training with the pair."""
    training = Training(setting.strategy(*pair), data, setting.batch_size, setting.sampling)
    solution = whole(training.run(record_steps(0, steps, max(1, -(-steps // RECORDS)))))
    gaps = solution.history.get("head_gap")
    known = gaps is not None and not bool(gaps.isnan().all())
    gap = None
    if known:
        assert gaps is not None
        gap = HeadGap(solution.steps.tolist(), [float(row.nanmedian()) for row in gaps])
    try:
        return Way(gap, _curvatures(Iterates.of(solution)))
    except BilevelError:
        return Way(gap, None)


def _curvatures(points: Iterates) -> BlockCurvatures:
    point, usable = point_of(points, 0)
    products = BodyProducts(point)

    def of_body(vectors: Tensor) -> Tensor:
        return trees.flatten(products.along_body(trees.unflatten(vectors, point.body))[0])

    def of_head(vectors: Tensor) -> Tensor:
        return trees.flatten(products.along_head(trees.unflatten(vectors, point.head))[1])

    body, head = (
        ends_of(product, trees.flatten(like), tolerance=TOLERANCE, most=PRODUCTS, seed=0).high
        for product, like in ((of_body, point.body), (of_head, point.head))
    )
    return BlockCurvatures(
        *(float(x.where(usable, float("nan")).nanmedian()) for x in (body, head))
    )


def exact_losses(
    setting: Setting, data: TrainingData, body_lr: float, metric: str, steps: int
) -> NDArray[np.float64] | None:
    """The metric of exact best-response training, (seeds,); None where there is no exact head."""
    strategy = BestResponse(body_lr, optimizer=setting.optimizer)
    try:
        training = Training(
            strategy.fitted(setting.problem), data, setting.batch_size, setting.sampling
        )
    except BilevelError:
        return None
    history = training.run([steps], respond=False).history
    losses: NDArray[np.float64] = as_losses(metric, history[metric].numpy(), data)[0]
    return losses
