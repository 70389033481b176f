"""Policy evaluation with features that are learned: MSPBE as a Stackelberg problem, neural TDC."""

import torch
from torch import Tensor
from typing_extensions import override

import bilevel
from bilevel import trees
from bilevel.core.checks import check_instance, single
from bilevel.errors import ShapeError
from bilevel.problem.base import Groups
from bilevel.trees import Tree
from problems.mspbe import exact
from problems.mspbe.bodies import Body, Layers
from problems.mspbe.exact import Moments
from problems.mspbe.process import Model
from problems.mspbe.products import multiplied
from problems.mspbe.sources import AbstractSource
from problems.mspbe.transitions import Transitions

DEGENERATE = (
    "MSPBE is 0 at the exact best response (LSTD) wherever A is nonsingular, so it does not prefer "
    "any body to another: judge by MSVE, the value error, and that of the LSTD head."
)


class Evaluation(bilevel.StackelbergProblem):
    r"""What all policy-evaluation problems share: rows, features, the head's objective and metrics.

    $$
    V(s) = \phi(w, x_s)^\top \theta,
    \qquad g = (b - A \theta)^\top (C + \text{shift} \cdot I)^{-1} (b - A \theta)
    $$

    with $A = \mathbb{E}[\rho\, \phi\, (\phi - \gamma \phi')^\top] + \text{ridge} \cdot I$,
    $b = \mathbb{E}[\rho\, r\, \phi]$ and $C = \mathbb{E}[\phi \phi^\top]$ over the rows of the
    batch: MSPBE. LSTD's condition $A \theta = b$ is not the gradient of a convex function, for A is
    not symmetric; its solution is the minimiser of this g, which is. The price is conditioning: the
    Hessian $A^\top C^{-1} A$ has about the square of the condition number of
    $C^{-1/2} A C^{-1/2}$, so exact heads want float64.

    Metrics, from a `Model` in the group "test", each at the head as it is: test_msve (value error),
    test_mspbe, test_rmspbe (its root) and test_msbe (Bellman error); and test_lstd_msve, the value
    error of the LSTD head at the body. Without a model: train_mspbe, and validation_return_error
    where there are returns.

    Args:
        source: of the rows.
        network: the features; None: `Layers(source.columns)`, five tanh units.
        shift: added to the diagonal of C, for features that may become dependent. With 0, its
            pseudo-inverse is taken.
        ridge: added to the diagonal of A.
    """

    def __init__(
        self,
        source: AbstractSource,
        network: Body | None = None,
        shift: float = 0.0,
        ridge: float = 0.0,
    ) -> None:
        check_instance(source, AbstractSource, "source", "Known(random_walk())")
        check_instance(network, Body | None, "network", "Layers(source.columns)")
        self.source = source
        self.network: Body = Layers(source.columns) if network is None else network
        self.shift = single(shift, "`shift`", zero_allowed=True)
        self.ridge = single(ridge, "`ridge`", zero_allowed=True)
        self.discount, self.redraws_data = source.discount, source.redraws
        self.note = f"{source.description}; gamma = {self.discount:g}."

    @override
    def data(self, seed: int | None = None) -> Groups:
        return self.source.groups(seed)

    @override
    def init_body(self, generator: torch.Generator) -> Tree:
        return self.network.init_body(generator)

    @override
    def init_head(self, generator: torch.Generator) -> Tensor:
        return torch.zeros(self.network.width, dtype=torch.float64)

    def features(self, body: Tree, inputs: Tensor) -> Tensor:
        """phi, (n, M)."""
        return self.network.features(body, inputs)

    def moments(self, body: Tree, rows: Transitions | Model) -> Moments:
        """A (without ridge), b and C (without shift) of the rows."""
        if isinstance(rows, Model):
            z = self.features(body, check_model(rows).inputs)
            return exact.moments(z, rows, self.discount)
        both = self.features(body, torch.cat([rows.inputs, rows.next_inputs]))
        n = len(rows.rewards)
        return exact.sampled_moments(both[:n], both[n:], rows, self.discount)

    def regularised(self, found: Moments) -> Moments:
        """The moments with ridge and shift."""
        eye = torch.eye(len(found.b), dtype=found.a.dtype, device=found.a.device)
        return Moments(found.a + self.ridge * eye, found.b, found.c + self.shift * eye)

    @override
    def head_objective(self, body: Tree, head: Tensor, batch: Groups) -> Tensor:
        return exact.mspbe(self.regularised(self.moments(body, batch["train"])), head)

    def lstd_head(self, body: Tree, rows: Transitions | Model) -> Tensor:
        r"""$(A + \text{ridge} \cdot I)^{-1} b$, (M,)."""
        return exact.lstd(self.moments(body, rows), self.ridge, singular="least norm")

    @override
    def metrics(self, body: Tree, head: Tensor, data: Groups) -> dict[str, Tensor]:
        model = data.get("test")
        if isinstance(model, Model):
            return exact.errors(self.features(body, model.inputs), head, model, self.discount)
        found = {"train_mspbe": exact.mspbe(self.moments(body, data["train"]), head)}
        if "validation" in data:
            found["validation_return_error"] = self.return_error(body, head, data["validation"])
        return found

    def return_error(self, body: Tree, head: Tensor, rows: bilevel.Batch) -> Tensor:
        """The mean square of V(x) - G over rows of inputs and Monte-Carlo returns."""
        return (self.features(body, rows.inputs) @ head - rows.targets).square().mean()


class NeuralMSPBE(bilevel.AuxiliaryProblem, Evaluation):
    r"""MSPBE over head and body: F is g. `SingleLoop` on it is neural TDC.

    The directions of a batch, with $\delta = r + \gamma V(x') - V(x)$, $q = \phi^\top \omega$,
    $D_u(x)$ the vector-Jacobian product of the features of $x$ with $u$, and $V = 0$ after the end
    of an episode:

    $$
    \begin{aligned}
    \omega &: \mathbb{E}[(q - \rho \delta)\, \phi] + \text{shift} \cdot \omega \\
    \theta &: -\mathbb{E}[\rho\, (\delta \phi - \gamma \phi' q)] + \text{shift} \cdot \omega \\
    \text{body} &: \mathbb{E}[(\rho \delta - q)\, D_{\omega}(x)
        + \rho q\, (\gamma D_{\theta}(x') - D_{\theta}(x))]
    \end{aligned}
    $$

    At $\omega^* = (C + \text{shift} \cdot I)^{-1} (b - A \theta)$ those of $\theta$ and the body
    are half of the gradients of g.

    Args:
        source: of the rows; for the expectations of a known process pass `batch_size=None`.
        network: as in `Evaluation`.
        shift: as in `Evaluation`.

    Source: arXiv 2605.15530, section 5.3 and Algorithm 1. Differs from the source in: 1. bodies
    of any depth; 2. importance ratios; 3. batches; 4. `shift`.

    Examples:
        >>> import bilevel
        >>> from problems.mspbe import NeuralMSPBE, random_process
        >>> from problems.mspbe.sources import Known
        >>> problem = NeuralMSPBE(Known(random_process()))
        >>> beta = bilevel.Polynomial(0.5, 0.4)
        >>> strategy = bilevel.SingleLoop(bilevel.Polynomial(0.05, 0.6), beta, beta.scaled(2.0))
        >>> solution = bilevel.solve(problem, strategy, steps=300, batch_size=None, seeds=2)
        >>> bool((solution.history["test_mspbe"][-1] < solution.history["test_mspbe"][0]).all())
        True
    """

    def __init__(
        self, source: AbstractSource, network: Body | None = None, shift: float = 0.0
    ) -> None:
        super().__init__(source, network, shift)
        self.note = f"{self.note} {DEGENERATE}"

    def strategies(self, body_lr: float, head_lr: float) -> dict[str, bilevel.AbstractStrategy]:
        """Algorithm 1 with constant rates and three controls, all with plain steps; best response.

        The auxiliary variable has the rate of the head.
        """
        return {
            "Algorithm 1": bilevel.SingleLoop(body_lr, head_lr, head_lr),
            "uniform": bilevel.SingleLoop(head_lr, head_lr, head_lr),
            "swapped": bilevel.SingleLoop(head_lr, body_lr, body_lr),
            "frozen body": bilevel.SingleLoop(0.0, head_lr, head_lr),
            "best response": bilevel.BestResponse(body_lr),
        }

    @override
    def init_auxiliary(self, generator: torch.Generator) -> Tensor:
        return torch.zeros(self.network.width, dtype=torch.float64)

    @override
    def directions(
        self, body: Tree, head: Tensor, auxiliary: Tensor, batch: Groups
    ) -> tuple[Tree, Tensor, Tensor]:
        body, head, auxiliary, batch = map(trees.single, (body, head, auxiliary, batch))
        of_body, of_head, of_auxiliary = self.directions_of_runs(body, head, auxiliary, batch)
        return trees.take(of_body, 0), of_head[0], of_auxiliary[0]

    def directions_of_runs(
        self, body: Tree, head: Tensor, auxiliary: Tensor, batch: Groups
    ) -> tuple[Tree, Tensor, Tensor]:
        """Those of the class, from one evaluation of the features and one pull-back.

        That of dense layers is written by hand where their activation allows it: for small ones
        it costs a third of automatic differentiation. Of all other networks it is a `Pullback`.
        """
        rows: Transitions | Model = batch["train"]
        pair = torch.stack([auxiliary, -head], 2)
        if isinstance(rows, Model):
            inputs = check_model(rows).inputs
        else:
            inputs = torch.cat([rows.inputs, rows.next_inputs], 1)
        by_hand = self.network.closed_form(trees.detach(body), inputs)
        values = self.network.features_of_runs(body, inputs) if by_hand is None else by_hand[0]
        z = values.detach()  # a graph holds the features, and not what follows from them
        if isinstance(rows, Model):
            scales = self._of_model(z, pair, rows)
        else:
            scales = self._of_transitions(z, pair, rows)
        of_auxiliary, _, of_head = (-multiplied(scales.mT, z)).unbind(1)
        if self.shift:
            damping = self.shift * auxiliary
            of_auxiliary, of_head = of_auxiliary + damping, of_head + damping
        along = multiplied(scales[:, :, :2], pair.mT)
        of_body = bilevel.Pullback(values, along) if by_hand is None else by_hand[1](along)
        return of_body, of_head, of_auxiliary

    def _of_transitions(self, z: Tensor, pair: Tensor, rows: Transitions) -> Tensor:
        """What scales the features z (R, 2n, M) of x and x' in the directions, (R, 2n, 3).

        Columns 0 and 1 multiply omega and -theta, the `pair`, in the pull-back. Columns 0 and 2
        multiply z in minus the directions of omega and theta.
        """
        n = rows.rewards.shape[1]
        seen = multiplied(z, pair)
        q, minus_values, minus_next = seen[:, :n, 0], seen[:, :n, 1], seen[:, n:, 1]
        share = rows.weights if n == 1 else rows.weights * (1 / n)
        minus_discount, corrected = -self.discount * rows.continues, share * rows.ratios
        delta = torch.addcmul(rows.rewards, minus_discount, minus_next) + minus_values
        error, scaled = corrected * delta, corrected * q
        here = torch.stack([torch.addcmul(error, share, q, value=-1), scaled, error], 2)
        ahead = minus_discount * scaled
        there = torch.stack([torch.zeros_like(q), ahead, ahead], 2)
        return torch.cat([here, there], 1)

    def _of_model(self, z: Tensor, pair: Tensor, model: Model) -> Tensor:
        """The same in expectation, for all states: (R, S, 3)."""
        q, minus_values = (z @ pair).unbind(2)
        minus_ahead = self.discount * (model.transitions @ minus_values.unsqueeze(2)).squeeze(2)
        error = model.weights * (model.rewards - minus_ahead + minus_values)
        weighted = model.weights * q
        back = self.discount * (model.transitions.mT @ weighted.unsqueeze(2)).squeeze(2)
        return torch.stack([error - weighted, weighted - back, error - back], 2)


def check_model(model: Model) -> Model:
    """The model, or an error unless its rows are all states: expectations need them."""
    check_instance(model, Model, "model", "random_walk().model")
    rows, states = model.transitions.shape[-2:]
    if rows != states:
        raise ShapeError(
            f"Expectations need all {states} states, got a batch of {rows}: pass `batch_size=None` "
            '(--batch-size 0 in the command), or draw transitions with `Known(process, "iid")`.'
        )
    return model
