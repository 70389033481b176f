"""Classes told apart after a few images of each: episodes of handwritten digits."""

import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn.functional import one_hot
from typing_extensions import override

import bilevel
from bilevel.core.checks import check_positive_integer
from bilevel.core.generators import generator
from bilevel.errors import ArgumentError, check_name
from bilevel.problem.base import Groups
from bilevel.problem.network.hidden_layers import Network, Width
from problems.few_shot import FewShot

WAYS = 5
HEADS = ("ridge", "softmax")


class Episodes(FewShot):
    """Tasks of five classes in random order, each known by a few images; 8 x 8 pixels over 16.

    The body is trained on episodes of five of the ten digits, drawn for each seed, and judged on
    new ones of the other five, which it has never seen.

    Args:
        shots: support images of each class.
        queries: query images of each class, for training and for testing.
        train: episodes that the body is trained on, drawn for each seed.
        test: episodes of the other five digits.
        head: "ridge": squared error on labels written as zeros and a one; "softmax": its loss.
        network: see `FewShot`.
        ridge: likewise.
        inner_lr: likewise.

    Raises:
        ArgumentError: a size is no positive integer, `head` is none of both, or there are not so
            many images of a class; see `FewShot`.

    Source: the protocol of Vinyals et al. 2016 (arXiv 1606.04080), ridge heads of Bertinetto et al.
    2019 (arXiv 1805.08136). Differs from the source in: 1. digits of scikit-learn, five classes for
    training and five for testing; 2. a finite number of episodes.
    """

    outputs = WAYS

    def __init__(
        self,
        shots: int,
        queries: int,
        train: int,
        test: int,
        head: str,
        network: Network,
        ridge: float,
        inner_lr: float,
    ) -> None:
        sizes = {"shots": shots, "queries": queries, "train": train, "test": test}
        for name, size in sizes.items():
            check_positive_integer(size, f"`{name}`")
        check_name(head, dict.fromkeys(HEADS), "head")
        images, labels = load_digits(return_X_y=True)
        self.images = torch.from_numpy(images / 16)
        self.of_class = [torch.from_numpy((labels == digit).nonzero()[0]) for digit in range(10)]
        if shots + queries > min(map(len, self.of_class)):
            raise ArgumentError(
                f"`shots` and `queries` ask for {shots + queries} images of a class; there are "
                f"{min(map(len, self.of_class))} of the rarest."
            )
        self.shots, self.queries, self.train, self.test = shots, queries, train, test
        self.softmax = head == "softmax"
        self.criterion = bilevel.SoftmaxLoss() if self.softmax else bilevel.SquaredError()
        note = (
            f"Episodes of digits (in scikit-learn): 5 classes, {shots} support and {queries} query "
            f"images of each; {train:,} of five digits drawn for each seed, {test:,} of the other "
            "five for testing."
        )
        super().__init__(network, self.images.shape[1], WAYS * shots, ridge, inner_lr, note)

    def data(self, seed: int | None = None) -> dict[str, object]:
        """Episodes of a seed (0 where none is given), and of classes that it does not train on."""
        source = generator(seed or 0, "episodes")
        classes = torch.randperm(10, generator=source)
        train, query = self._episodes(self.train, classes[:WAYS], source)
        support, judged = self._episodes(self.test, classes[WAYS:], source)
        return {"train": train, "validation": query, "test": {"train": support, "test": judged}}

    def _episodes(
        self, count: int, classes: Tensor, source: torch.Generator
    ) -> tuple[bilevel.Batch, bilevel.Batch]:
        """Support and query rows: inputs (T, n, 64), targets (T, n, 5) or labels (T, n)."""
        both = self.shots + self.queries
        rows = torch.empty(count, WAYS, both, dtype=torch.int64)
        for task in range(count):
            for label, place in enumerate(torch.randperm(WAYS, generator=source).tolist()):
                there = self.of_class[int(classes[place])]
                some = torch.randperm(len(there), generator=source)[:both]
                rows[task, label] = there[some]
        return self._batch(rows[..., : self.shots]), self._batch(rows[..., self.shots :])

    def _batch(self, rows: Tensor) -> bilevel.Batch:
        """Images (T, 5, n) by label as rows of tasks."""
        tasks, _, each = rows.shape
        labels = torch.arange(WAYS).repeat_interleave(each).expand(tasks, -1)
        targets = labels if self.softmax else one_hot(labels, WAYS).double()
        return bilevel.Batch(self.images[rows.flatten(1)], targets)

    @override
    def metrics(self, body: dict[str, Tensor], head: Tensor, data: Groups) -> dict[str, Tensor]:
        """Those of the criterion, and the share of right labels."""
        found = super().metrics(body, head, data)
        for name in () if self.softmax else data:
            right = self.predict(body, head, data[name].inputs).argmax(1)
            hits = right == data[name].targets.argmax(1)
            found[f"{name}_accuracy"] = hits.to(head.dtype).mean()
        return found


def episodes(
    shots: int = 1,
    queries: int = 5,
    train: int = 2000,
    test: int = 200,
    head: str = "ridge",
    width: Width = 64,
    depth: int = 1,
    activation: str = "relu",
    ridge: float = 0.1,
    inner_lr: float = 0.1,
) -> Episodes:
    """Handwritten digits, five at a time, told apart after a few images of each (few-shot).

    Args:
        shots: support images of each class.
        queries: query images of each class.
        train: episodes drawn for each seed.
        test: episodes of five digits that the body is not trained on.
        head: "ridge" or "softmax".
        width: units per hidden layer, one number or one for each.
        depth: hidden layers.
        activation: one of relu, tanh, softplus, silu, gelu.
        ridge: lambda at the start, at least 0.
        inner_lr: of heads that are found by steps.

    Raises:
        ArgumentError: a size is no positive integer, or `head` is none of both.

    Examples:
        >>> import bilevel
        >>> problem = bilevel.load_problem("episodes", width=4, train=6, test=2)
        >>> problem.data(0)["train"].inputs.shape    # tasks, images, pixels
        torch.Size([6, 5, 64])
    """
    network = Network(width, depth, activation)
    return Episodes(shots, queries, train, test, head, network, ridge, inner_lr)
