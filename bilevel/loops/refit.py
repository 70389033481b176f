"""An exact head in a training loop in plain torch, when it is due."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel

from bilevel.core.checks import check_instance, check_positive_integer, single
from bilevel.core.graph import ordinary
from bilevel.errors import ArgumentError, IncompatibleError, ShapeError, counted, spell
from bilevel.exact import logistic_head, softmax_head
from bilevel.exact.arguments import check_tensor
from bilevel.loops.hooks import OwnHook
from bilevel.loops.modules import check_model, head_of, linear_head
from bilevel.loops.seen import Call, LastCalls, Moments, copied, exact
from bilevel.loops.targets import flat
from bilevel.loops.undisturbed import Precision, undisturbed
from bilevel.problem.criteria import AbstractCriterion, LogisticLoss, SoftmaxLoss, SquaredError

CRITERIA: dict[str, type[AbstractCriterion]] = {
    kind.__name__: kind for kind in (SquaredError, SoftmaxLoss, LogisticLoss)
}
IGNORED = -100
"""The label of rows that torch's cross entropy leaves out, and so does a refit."""


class HeadRefit:
    r"""Every few steps of a loop in plain torch, the last layer is solved instead of trained.

    $$\arg\min_\theta\, \operatorname{mean}_i c(z_i\theta, t_i) + \tfrac12 p \lVert\theta\rVert^2$$

    over rows that were seen, $z_i$ what the head was given, $p$ the ridge. Its bias is penalised
    only where a class has no row. Between refits the loop is what it was: nothing but the head's
    weight and bias ever changes, neither gradients nor random states, buffers, modes or the
    optimiser. Call `step` once after each forward pass in training mode, and after its `backward`,
    which needs the head as it was.

    With `SquaredError` it keeps $Z^\top Z$ and $Z^\top t$ of the features as they were in training,
    in float64, each step's sums times `decay` for every step after it; rows that are not finite are
    left out. With the losses of classes it keeps what the model was called with for the last `rows`
    rows of the head, calls the model again at the refit, in evaluation mode and without gradients,
    and solves by Newton's method from the head that is there: a refit costs these calls. Labels
    -100 are left out.

    The optimiser's state of the head, its momentum, is of before the refit. With a large head rate
    forget it: `for p in refit.parameters: optimizer.state.pop(p, None)` when `step` returns True.

    Args:
        model: in training, also in `DataParallel` on one device or in `torch.compile`, if it was
            not called before.
        head: the name of its last `nn.Linear`, dots included, or that module. A forward pass calls
            it once, on (..., M).
        ridge: at least 0. (`nn.MSELoss` over K outputs is twice `SquaredError` over K: beside it
            the penalty is $\text{ridge}/K\, \lVert\theta\rVert^2$.)
        every: steps from one refit to the next, the first after as many.
        criterion: c: `SquaredError()`, `SoftmaxLoss()` or `LogisticLoss()`; None: the first for
            floating targets, for whole ones the second, or with one output the third.
        decay: from 0, the rows of the last step only, to 1, all rows alike.
        rows: of the head, positions of sequences each counted.

    Attributes:
        parameters: the weight of the head, and its bias.
        refits: how many there were.

    Raises:
        UnknownNameError: the model has no module of that name.
        ArgumentError: the head is no plain `nn.Linear`, or shares its weight with the body.
        IncompatibleError: the criterion is another one; the model is on several devices or
            processes, which would solve for different heads.

    Examples:
        >>> import torch
        >>> from bilevel import loops
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 16), torch.nn.Tanh(),
        ...                             torch.nn.Linear(16, 1))
        >>> optimizer = torch.optim.AdamW(loops.param_groups(model, "2", 1e-3, 1e-2))
        >>> x = torch.randn(64, 2); y = x.prod(1, keepdim=True)
        >>> with loops.HeadRefit(model, "2", ridge=1e-3, every=5) as refit:
        ...     for _ in range(10):
        ...         (model(x) - y).square().mean().backward()
        ...         optimizer.step(); optimizer.zero_grad()
        ...         _ = refit.step(y)
        >>> refit.refits
        2
    """

    def __init__(
        self,
        model: nn.Module,
        head: str | nn.Module,
        ridge: float,
        every: int,
        criterion: AbstractCriterion | None = None,
        decay: float = 0.99,
        rows: int = 4096,
    ) -> None:
        check_model(model)
        self._ridge = single(ridge, "`ridge`", zero_allowed=True)
        self._decay = single(decay, "`decay`", zero_allowed=True)
        if self._decay > 1:
            raise ArgumentError(f"`decay` must be from 0 to 1, got {decay}.")
        check_positive_integer(every, "`every`")
        check_positive_integer(rows, "`rows`")
        self._every, self._rows = int(every), int(rows)
        _refuse_many(model)
        self._model, self._name = model, head_of(model, head).name
        self._layer = linear_head(model, head)
        self.parameters = list(self._layer.parameters())
        self.refits = self._steps = 0
        self._seen: list[tuple[Tensor, Precision]] = []
        self._call: tuple[tuple[Any, ...], dict[str, Any]] | None = None
        self._features: list[Tensor] | None = None
        self._moments: Moments | None = None
        self._calls: LastCalls | None = None
        self._criterion: AbstractCriterion | None = None
        if criterion is not None:
            self._begin(criterion)
        hooks = {self._layer: self._hear, model: self._keep}
        self._hooks = [
            module.register_forward_pre_hook(OwnHook(module, function), with_kwargs=True)
            for module, function in hooks.items()
        ]

    def step(self, targets: Tensor) -> bool:
        """Take the rows of the last forward pass in training mode; refit the head if it is due.

        Args:
            targets: of what the head was given, (..., M): (...) or (..., K), floating; or int64
                labels (...). Axes may be flattened.

        Returns:
            Whether the head was refitted.

        Raises:
            ArgumentError: there was not one forward pass in training mode since the last step, or
                this is closed.
            ShapeError: the targets do not fit what the head was given.
            DataError: they are no labels of its classes, or not floating.
            SingularHeadError: the head is not determined, or features are not finite. It is as it
                was then.
        """
        check_tensor(targets, "targets")
        seen, precision, called = self._last()
        if self._criterion is None:
            self._begin(self._inferred(targets))
        lead, labels = seen.shape[:-1], self._moments is None
        t = flat(targets, lead, self._layer.out_features, labels=labels)
        if self._moments is not None:
            self._moments.add(seen.reshape(len(t), -1), t)
        else:
            assert self._calls is not None
            if called is None:
                raise ArgumentError(
                    "The head was called, but not by a call of `model`: the features of classes "
                    "are computed anew at a refit, by calling the model again. Call `model(x)`."
                )
            self._calls.add(Call(*called, t, precision))
        self._steps += 1
        if self._steps % self._every:
            return False
        self._refit()
        self.refits += 1
        return True

    def close(self) -> None:
        """Remove the hooks; what was seen is kept, for `state_dict`."""
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._seen, self._call = [], [], None

    def __enter__(self) -> "HeadRefit":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def state_dict(self) -> dict[str, Any]:
        """All that evolves: a loop that loads it goes on with the same numbers.

        It holds no settings, and neither model nor optimiser. With losses of classes it holds the
        last rows; save it with `torch.save`, as those of optimisers.
        """
        state: dict[str, Any] = {
            "steps": self._steps,
            "refits": self.refits,
            "criterion": None if self._criterion is None else type(self._criterion).__name__,
        }
        if self._moments is not None and self._moments.product is not None:
            state["weight"] = float(self._moments.weight)
            state["product"] = self._moments.product.clone()
            state["origin"] = copied(self._moments.origin)
        if self._calls is not None:
            calls = [(*call[:3], tuple(call.precision)) for call in self._calls.calls]
            state["calls"] = calls
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state, which is moved to the device of the head.

        Raises:
            ArgumentError: it is no state of a `HeadRefit`, or one of another criterion.
            ShapeError: the head had another shape.
        """
        name = state.get("criterion", "") if isinstance(state, dict) else ""
        if name is not None and name not in CRITERIA:
            raise ArgumentError(f"`state` must be what `state_dict` returned, got {spell(state)}.")
        own = None if self._criterion is None else type(self._criterion).__name__
        if own is not None and name is not None and own != name:
            raise ArgumentError(f"The state is one with {name}, but `criterion` is {own}.")
        if name is not None and own is None:
            self._begin(CRITERIA[name]())
        if self._moments is not None and "product" in state:
            size = self._layer.in_features + self._bias + self._layer.out_features
            if state["product"].shape != (size, size):
                raise ShapeError(
                    f"The state is of a head with another shape: {tuple(state['product'].shape)} "
                    f"for ({size}, {size})."
                )
            self._moments.load(state, self._layer.weight)
        if self._calls is not None:
            self._calls.load(state.get("calls", []), self._layer.weight.device)
        self._steps, self.refits = state["steps"], state["refits"]
        self._seen, self._call = [], None

    @property
    def _bias(self) -> bool:
        return self._layer.bias is not None

    def _hear(self, given: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        """Before a call of the head."""
        if self._features is not None:
            self._features.append(*(z.detach() for z in (*given, *keywords.values())))
        elif self._layer.training:
            (z,) = (z.detach() for z in (*given, *keywords.values()))
            self._seen.append((z, Precision.now(z.device.type)))
            del self._seen[:-2]  # more than one is an error in any case

    def _keep(self, given: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        """Before a call of the model."""
        if self._features is None and self._moments is None and self._layer.training:
            self._call = given, keywords

    def _last(self) -> tuple[Tensor, Precision, tuple[tuple[Any, ...], dict[str, Any]] | None]:
        """What the head was given since the last step, and the model; it is forgotten here."""
        if not self._hooks:
            raise ArgumentError("This `HeadRefit` is closed: make a new one, and load its state.")
        seen, called = self._seen, self._call
        self._seen, self._call = [], None  # now: an error must not count for the next step, too
        if len(seen) != 1:
            there = "no call" if not seen else "more than one call"
            raise ArgumentError(
                f"There was {there} of the head {self._name!r} in training mode since the last "
                "`step`. Call `step` once after each forward pass, and evaluate in `model.eval()`. "
                "Compiled code that ran before `HeadRefit` was made does not know it: make it "
                "first."
            )
        return *seen[0], called

    def _begin(self, criterion: AbstractCriterion) -> None:
        """Take a criterion."""
        check_instance(criterion, AbstractCriterion, "criterion", "SoftmaxLoss()")
        if type(criterion) not in CRITERIA.values():
            raise IncompatibleError(
                f"`criterion` is {type(criterion).__name__}, but heads are refitted for "
                f"{', '.join(CRITERIA)}."
            )
        outputs = self._layer.out_features
        if isinstance(criterion, LogisticLoss) != (outputs == 1) and not criterion.quadratic:
            raise IncompatibleError(
                f"The head {self._name!r} has {counted(outputs, 'output')}: SoftmaxLoss() has one "
                "for each class, LogisticLoss() one for both."
            )
        self._criterion = criterion
        if criterion.quadratic:
            self._moments = Moments(self._decay, fit_bias=self._bias)
        else:
            self._calls = LastCalls(self._rows)

    def _inferred(self, targets: Tensor) -> AbstractCriterion:
        """The criterion for the kind of targets."""
        if targets.is_floating_point():
            return SquaredError()
        return LogisticLoss() if self._layer.out_features == 1 else SoftmaxLoss()

    @ordinary()
    def _refit(self) -> None:
        """Write the exact head into the layer."""
        with torch.no_grad():
            theta = self._solved()
            columns = theta.reshape(-1, self._layer.out_features).to(self._layer.weight)
            self._layer.weight.copy_(columns[: self._layer.in_features].mT)
            if self._bias:
                self._layer.bias.copy_(columns[-1])

    def _solved(self) -> Tensor:
        """theta, (m, K) or (m,)."""
        if self._moments is not None:
            return self._moments.head(self._ridge, self._layer.out_features)
        assert self._calls is not None
        assert self._criterion is not None
        features, labels = self._again(), torch.cat([call.targets for call in self._calls.calls])
        kept = labels != IGNORED
        z, y = (x[kept][-self._rows :] for x in (features, labels))
        start = exact(self._layer.weight.detach()).mT
        if self._bias:
            start = torch.cat([start, exact(self._layer.bias.detach()).unsqueeze(0)])
        outputs = self._layer.out_features
        seen = y.clamp(0, max(1, outputs - 1))  # what is no label is refused below
        zero = z.new_zeros((len(y), outputs) if outputs > 1 else len(y))
        own, plain = self._criterion, CRITERIA[type(self._criterion).__name__]()
        one, other = (kind.rows(zero, seen) for kind in (own, plain))
        weights = None if torch.equal(one, other) else one / other  # those of classes
        # the free bias of a class without a row has no minimiser
        held = self._bias and len(seen.bincount().nonzero()) < max(2, outputs)
        bias = {"fit_bias": self._bias, "penalize_bias": held}
        if isinstance(self._criterion, LogisticLoss):
            first = start.squeeze(1)
            return logistic_head(z, y, self._ridge, row_weights=weights, start=first, **bias)
        return softmax_head(z, y, self._ridge, row_weights=weights, start=start, **bias)

    def _again(self) -> Tensor:
        """The features of the last rows at the body that is there now, float64."""
        assert self._calls is not None
        found: list[Tensor] = []
        try:
            with undisturbed(self._model):
                for call in self._calls.calls:
                    self._features = []
                    with call.precision.again():
                        self._model(*call.arguments, **call.keywords)
                    found += self._features
        finally:
            self._features = None
        return torch.cat([exact(z).reshape(-1, z.shape[-1]) for z in found])


def _refuse_many(model: nn.Module) -> None:
    """Raise where parts of a batch are seen in several places."""
    there = torch.distributed.is_available() and torch.distributed.is_initialized()
    if there and torch.distributed.get_world_size() > 1:
        raise IncompatibleError(
            "Several processes train this model: each would refit the head to the rows that it saw "
            "itself. Refit in a single process."
        )
    if isinstance(model, DataParallel) and len(model.device_ids) > 1:
        raise IncompatibleError(
            "`DataParallel` gives the head its rows in parts, on several devices: refit a model on "
            "one device."
        )
