"""Networks written as `nn.Module`: the last linear layer becomes the head, the rest the body.

Beside its neighbours the only file that knows `nn.Module`. A module mixes one set of parameters
with its code; here the code becomes functions of parameters, which can train many runs at once.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from bilevel import trees
from bilevel.core.checks import check_flag, check_function, check_positive_integer
from bilevel.core.graph import ordinary
from bilevel.errors import ArgumentError, BilevelError, ProblemError, ShapeError
from bilevel.problem.network import layers
from bilevel.problem.network.agreement import Agreement, Called
from bilevel.problem.network.masks import Keyed, check_key, draw_keys, mask, without_masks
from bilevel.problem.network.tap import Tap


class SplitModule:
    """A network as functions of a body and a head; made by `bilevel.split`.

    The body is a dict of all parameters but the head's, under the names that torch gives them. The
    head is the last layer in the convention of `LinearHeadProblem`: the transposed weight, the bias
    as its last row. Buffers are constants, in the type and on the device of the body.

    Attributes:
        fit_bias: whether the head has a bias, as in `LinearHeadProblem.fit_bias`.
        outputs: K; None for one output, without an axis, as in `LinearHeadProblem.outputs`.
        head_shape: (M,), (M + 1,), (M, K) or (M + 1, K).

    Examples:
        >>> import bilevel, torch
        >>> make = lambda: torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
        >>> parts = bilevel.split(make, head="1")
        >>> parts.fit_bias, parts.outputs, parts.head_shape
        (True, 2, (5, 2))
        >>> body, head = (draw(torch.Generator()) for draw in (parts.init_body, parts.init_head))
        >>> parts.predict(body, head, torch.ones(5, 3)).shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        make_module: Callable[[], nn.Module],
        head: str,
        example: Tensor | None = None,
        masks: bool = False,
    ) -> None:
        if not callable(make_module) or isinstance(make_module, nn.Module):
            raise ArgumentError(
                "`make_module` must be a function that makes a new module, so that every seed has "
                f"a start of its own; got {type(make_module).__name__}. Write "
                '`split(lambda: Net(...), head="...")`.'
            )
        check_function(make_module, "make_module", "lambda: Net(...)", 0)
        check_flag(masks, "masks")
        self._head_name, self._make_module = head, make_module
        self._module, second = self._draw(0), self._draw(1)
        layer = layers.head_layer(self._module, head)
        layers.refuse_head(layer, head)
        layers.refuse(self._module, layer, head, masks=bool(masks))
        layers.refuse_shared(self._module, second)
        own = {id(p) for p in layer.parameters()}
        self._names = [k for k, p in self._module.named_parameters() if id(p) not in own]
        if not self._names:
            raise ArgumentError(
                f"The module has no parameters beside its head {head!r}, so there is no body. A "
                "problem with `body_free_features = True` needs no network."
            )
        self._layout = layers.layout(self._module)
        self._check_layout(second)
        self._constants = dict(self._module.named_buffers())
        self._check_constants(second)
        self.fit_bias = layer.bias is not None
        self.outputs = None if layer.out_features == 1 else layer.out_features
        rows = layer.in_features + self.fit_bias
        self.head_shape = (rows,) if self.outputs is None else (rows, self.outputs)
        layers.unfuse(self._module)
        layers.unfuse(second)
        self._keyed = Keyed()
        self._masks = mask(self._module, self._keyed)
        without_masks(second)
        # a module may hold its head under several names, and call it by any of them
        self._tap = Tap(layer, head)
        for name, child in list(self._module.named_modules(remove_duplicate=False)):
            if child is layer:
                self._module.set_submodule(name, self._tap)
        self._agreement = Agreement(
            second, head, self._without_head, self._features_of_runs, _whole
        )
        if example is not None:
            self._look_at(example)

    @ordinary()
    def init_body(self, generator: torch.Generator) -> dict[str, Tensor]:
        """The body of a new module, initialised as its own code does it.

        A seed is drawn from `generator`; torch's global random state is left as it was.
        """
        return self._body_of(self._new(generator))

    @ordinary()
    def init_head(self, generator: torch.Generator) -> Tensor:
        """The head of a new module, of shape `head_shape`.

        Body and head of a run are drawn from streams of their own, so its head is the head of
        another module than its body.
        """
        layer = layers.head_layer(self._new(generator), self._head_name)
        columns = layer.weight.detach().T
        if self.fit_bias:
            columns = torch.cat([columns, layer.bias.detach().unsqueeze(0)])
        return columns.reshape(self.head_shape).clone()

    def noise(self, generator: torch.Generator, steps: int) -> Tensor | None:
        """A key for the masks of each step, (steps,) int64; None: no dropout is in training mode.

        What a problem's `noise` returns, for `features` in its `noisy_features`.
        """
        check_positive_integer(steps, "`steps`")
        return draw_keys(generator, steps) if self._masks else None

    def features(
        self, body: dict[str, Tensor], inputs: Tensor, noise: Tensor | None = None
    ) -> Tensor:
        """What the network feeds to its head, shape (n, M), for `inputs` (n, ...).

        With a key of `noise`, 0-dim, the masks of its `nn.Dropout` layers are those of that key;
        without one, or with 0, there are none, as in `eval` mode.

        The first rows of a kind (the shape of a row, its type, the type of the body) are looked at
        twice: there the split network is compared with the module, at random parameters.

        Raises:
            ShapeError: the body has other names than the network, or the head is applied to more
                than one vector per row.
            ArgumentError: `noise` is no key, or the network uses the numbers of its head
                elsewhere.
            ProblemError: the split network would be something else than the module: it does
                something to the outputs of its head, calls it never or twice, changes its buffers
                or parameters, draws random numbers, mixes the rows of a batch, or has other outputs
                or gradients than a linear layer on these features.
        """
        if list(body) != self._names and set(body) != set(self._names):
            raise ShapeError(
                f"`body` has the names {sorted(body)}, but the network {sorted(self._names)}."
            )
        if not torch.compiler.is_compiling():
            self._agreement.check(body, inputs)
        if noise is None:
            return self._features(body, inputs)
        check_key(noise)
        with self._keyed.given(noise):
            return self._features(body, inputs)

    def _look_at(self, example: Tensor) -> None:
        """Compare with the module on rows that `split` was given."""
        if not isinstance(example, Tensor) or example.shape[:1].numel() == 0 or not example.ndim:
            raise ArgumentError(
                "`example` must be a tensor of rows, (n, ...) with n at least 1, as the module is "
                f"called with; got {getattr(example, 'shape', type(example).__name__)}."
            )
        to = example.device, example.dtype if example.is_floating_point() else None
        body = self._body_of(self._module)
        try:
            self.features({name: leaf.to(*to) for name, leaf in body.items()}, example)
        except BilevelError:
            raise
        except Exception as error:
            raise ArgumentError(f"The module cannot be called on `example`: {error}") from error

    def _body_of(self, module: nn.Module) -> dict[str, Tensor]:
        parameters = dict(module.named_parameters())
        return {name: parameters[name].detach() for name in self._names}

    def _features(self, body: dict[str, Tensor], inputs: Tensor) -> Tensor:
        like = body[self._names[0]]
        constants = {
            name: buffer.to(like.device, like.dtype if buffer.is_floating_point() else None)
            for name, buffer in self._constants.items()
        }
        return self._without_head({**constants, **body}, inputs, None).heard.z

    def _features_of_runs(self, bodies: dict[str, Tensor], inputs: Tensor) -> Tensor:
        found: Tensor = vmap(self._features, in_dims=(0, None))(bodies, inputs)
        return found

    def predict(self, body: dict[str, Tensor], head: Tensor, inputs: Tensor) -> Tensor:
        """The outputs of the network, (n, K), or (n,) for one output: logits of classes, say."""
        if tuple(head.shape) != self.head_shape:
            raise ShapeError(f"`head` has shape {tuple(head.shape)}, expected {self.head_shape}.")
        z = self.features(body, inputs)
        return z @ head[:-1] + head[-1] if self.fit_bias else z @ head

    def _new(self, generator: torch.Generator) -> nn.Module:
        """A module for a generator, like the one that was split."""
        seed = int(torch.randint(2**63 - 1, (), generator=generator, device=generator.device))
        module = self._draw(seed)
        self._check_layout(module)
        return module

    def _draw(self, seed: int) -> nn.Module:
        # `nn.Module` initialises from the global state: nothing else in the library touches it
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            module = self._make_module()
        if not isinstance(module, nn.Module):
            raise ArgumentError(
                f"`make_module` must return an `nn.Module`, got {type(module).__name__}."
            )
        return module

    def _check_layout(self, module: nn.Module) -> None:
        found = layers.layout(module)
        for name in sorted({*found, *self._layout}):
            if found.get(name) != self._layout.get(name):
                raise ArgumentError(
                    "`make_module` makes modules that differ in more than their numbers: "
                    f"{name!r} is {self._layout.get(name, 'absent')} in one and "
                    f"{found.get(name, 'absent')} in another. Runs are stacked, so every seed "
                    "needs the same architecture."
                )

    def _check_constants(self, second: nn.Module) -> None:
        for name, buffer in second.named_buffers():
            if not torch.equal(buffer, self._constants[name]):
                raise ArgumentError(
                    f"The buffer {name!r} differs from one module to the next, but buffers are "
                    "constants that all runs share. Draw it with a generator of its own, seeded in "
                    "the module's code, or make it a parameter."
                )

    def _without_head(self, values: dict[str, Tensor], inputs: Tensor, turn: int | None) -> Called:
        """Call the network with a body and constants; `turn` is the tap's."""
        like = values[self._names[0]]
        given = {**values, **self._tap.parameters_like(like, checked=turn is not None)}
        # the tap keeps what the head would be given: features come from whatever the network does
        # before its head, without a name or a hook for that place
        with self._tap.listening(turn) as heard:
            returned = _whole(self._module, given, inputs)
        if len(heard) != 1:
            raise ProblemError(
                f"The network calls its head {self._head_name!r} {len(heard)} times for a batch; "
                "it must call it once, as its last operation."
            )
        shape = tuple(heard[0].z.shape)
        if len(shape) != 2:
            raise ShapeError(
                f"The head {self._head_name!r} is applied to inputs of shape {shape} for "
                f"{len(trees.leaves(inputs)[0])} rows; it must see one vector per row, (n, M). "
                "Flatten them, or average over positions, before the head."
            )
        return Called(returned, heard[0], given)


@ordinary()
def split(
    make_module: Callable[[], nn.Module],
    head: str = "fc",
    *,
    example: Tensor | None = None,
    masks: bool = False,
) -> SplitModule:
    """Split a network into a body and a linear head.

    The split network is the module: on the first rows of each kind that it sees, or on `example`,
    its features, outputs and gradients are compared with the module's own at two random points of
    the parameters, and what would be something else is refused.

    Args:
        make_module: makes a new module whenever it is called: a class, or `lambda: Net(...)`. Its
            last operation is an `nn.Linear`; it takes one tensor, (n, ...).
        head: the name of that layer in the module, dots included ("decoder.fc", "4").
        example: a few rows (n, ...), to find out here what else the first call of `features`
            finds: rows that differ, as mixed rows are seen only then. None: wait for it.
        masks: whether `nn.Dropout` layers in training mode may stay: their masks are then those of
            the key that `features` is given, from `noise`; without a key there are none.

    Returns:
        The functions that the hooks of a problem call: `init_body`, `init_head`, `features`, and
        `noise`.

    Raises:
        UnknownNameError: the module has no linear layer of that name.
        ArgumentError: the module is not a function of its parameters alone (batch norm or dropout
            in training mode, but for `nn.Dropout` with `masks`), writes to its weights
            (`max_norm`), shares weights between head and body, has more attached to its head than
            weight and bias (hooks, masks, adapters), hooks on gradients, frozen or lazy parameters
            or a recurrent layer, is not on the CPU; or `make_module` does not make a new one.
        ProblemError: what is computed on `example` is something else than the module computes; see
            `SplitModule.features`.

    Examples:
        >>> import bilevel, torch
        >>> parts = bilevel.split(
        ...     lambda: torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(),
        ...                                 torch.nn.Linear(8, 1)), head="2")
        >>> body = parts.init_body(torch.Generator().manual_seed(0))
        >>> sorted(body), parts.features(body, torch.ones(5, 3)).shape, parts.head_shape
        (['0.bias', '0.weight'], torch.Size([5, 8]), (9,))
    """
    return SplitModule(make_module, head, example, masks)


def _whole(module: nn.Module, values: dict[str, Tensor], inputs: Tensor) -> Any:
    """A module with these parameters and buffers, called."""
    with sdpa_kernel(SDPBackend.MATH):  # fused attention has no batching rule
        return functional_call(module, values, (inputs,))
