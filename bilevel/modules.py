"""Networks written as `nn.Module`: the last linear layer becomes the head, the rest the body.

Beside `bilevel.layers` the only file that knows `nn.Module`. A module mixes one set of parameters
with its code; here the code becomes functions of parameters, which can train many runs at once.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from bilevel.errors import ArgumentError, ProblemError, ShapeError
from bilevel.layers import head_layer, layout, linear_layers, refuse, refuse_shared, unfuse


class SplitModule:
    """A network as functions of a body and a head; made by `bilevel.split`.

    The body is a dict of all parameters but the head's, under the names that torch gives them. The
    head is the last layer in the convention of `LinearHeadProblem`: the transposed weight, the bias
    as its last row. Buffers are constants, in the type and on the device of the body.

    Attributes:
        fit_bias: whether the head has a bias, as in `LinearHeadProblem.fit_bias`.
        outputs: K; None for one output, without an axis, as in `LinearHeadProblem.outputs`.
        head_shape: (M,), (M + 1,), (M, K) or (M + 1, K).
    """

    def __init__(self, make_module: Callable[[], nn.Module], head: str) -> None:
        if not callable(make_module) or isinstance(make_module, nn.Module):
            raise ArgumentError(
                "`make_module` must be a function that makes a new module, so that every seed has "
                f"a start of its own; got {type(make_module).__name__}. Write "
                '`split(lambda: Net(...), head="...")`.'
            )
        self._head_name, self._make_module = head, make_module
        self._module, second = self._draw(0), self._draw(1)
        layer = head_layer(self._module, head)
        refuse(self._module, layer, head)
        refuse_shared(self._module, second)
        own = {id(p) for p in layer.parameters()}
        self._names = [k for k, p in self._module.named_parameters() if id(p) not in own]
        if not self._names:
            raise ArgumentError(
                f"The module has no parameters beside its head {head!r}, so there is no body. A "
                "problem with `body_free_features = True` needs no network."
            )
        self._layout = layout(self._module)
        self._check_layout(second)
        self._constants = dict(self._module.named_buffers())
        self._check_constants(second)
        self.fit_bias = layer.bias is not None
        self.outputs = None if layer.out_features == 1 else layer.out_features
        rows = layer.in_features + self.fit_bias
        self.head_shape = (rows,) if self.outputs is None else (rows, self.outputs)
        unfuse(self._module)
        self._tap = _Tap(layer.out_features)
        for name, child in list(self._module.named_modules(remove_duplicate=False)):
            if child is layer:
                self._module.set_submodule(name, self._tap)
        self._checked = False

    def init_body(self, generator: torch.Generator) -> dict[str, Tensor]:
        """The body of a new module, initialised as its own code does it.

        A seed is drawn from `generator`; torch's global random state is left as it was.
        """
        parameters = dict(self._new(generator).named_parameters())
        return {name: parameters[name].detach() for name in self._names}

    def init_head(self, generator: torch.Generator) -> Tensor:
        """The head of a new module, of shape `head_shape`.

        Body and head of a run are drawn from streams of their own, so its head is the head of
        another module than its body.
        """
        layer = head_layer(self._new(generator), self._head_name)
        columns = layer.weight.detach().T
        if self.fit_bias:
            columns = torch.cat([columns, layer.bias.detach().unsqueeze(0)])
        return columns.reshape(self.head_shape).clone()

    def features(self, body: dict[str, Tensor], inputs: Tensor) -> Tensor:
        """What the network feeds to its head, shape (n, M), for `inputs` (n, ...).

        Raises:
            ShapeError: the body has other names than the network, or the head is applied to more
                than one vector per row.
            ProblemError: the network does something to the outputs of its head, calls the head
                never or twice, or changes its buffers.
        """
        if list(body) != self._names and set(body) != set(self._names):
            raise ShapeError(
                f"`body` has the names {sorted(body)}, but the network {sorted(self._names)}."
            )
        like = body[self._names[0]]
        constants = {
            name: buffer.to(like.device, like.dtype if buffer.is_floating_point() else None)
            for name, buffer in self._constants.items()
        }
        versions = [buffer._version for buffer in constants.values()]
        values = {**constants, **body}
        # fused attention has no batching rule
        with sdpa_kernel(SDPBackend.MATH), self._tap.listening() as heard:
            returned = functional_call(self._module, values, (inputs,))
        if len(heard) != 1:
            raise ProblemError(
                f"The network calls its head {self._head_name!r} {len(heard)} times for a batch; "
                "it must call it once, as its last operation."
            )
        z, stand_in = heard[0]
        if not self._checked and not torch.compiler.is_compiling():
            after = [values[name]._version for name in constants]
            kept = all(values[name] is constants[name] for name in constants)
            self._check_call(returned, stand_in, kept and after == versions)
        if z.ndim != 2:
            raise ShapeError(
                f"The head {self._head_name!r} is applied to inputs of shape {tuple(z.shape)}; it "
                "must see one vector per row, (n, M). Flatten them, or average over positions, "
                "before the head."
            )
        return z

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
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            module = self._make_module()
        if not isinstance(module, nn.Module):
            raise ArgumentError(
                f"`make_module` must return an `nn.Module`, got {type(module).__name__}."
            )
        return module

    def _check_layout(self, module: nn.Module) -> None:
        found = layout(module)
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

    def _check_call(self, returned: Any, stand_in: Tensor, buffers_kept: bool) -> None:
        """Look once at what cannot be seen in the module's layers, only in a call."""
        if not buffers_kept:
            raise ProblemError(
                "The network changes its buffers when it is called (running statistics, say), so "
                "that it is no function of its parameters. Make it with `.eval()`, or use layers "
                "without such a state."
            )
        same_size = isinstance(returned, Tensor) and returned.numel() == stand_in.numel()
        if not same_size or not torch.equal(returned.reshape(stand_in.shape), stand_in):
            raise ProblemError(
                f"The network does something after its head {self._head_name!r}, or returns more "
                "than the head's outputs. Return them as they are: what follows a linear head (a "
                "softmax, a residual) belongs to the objective, which gets the raw outputs."
            )
        self._checked = True


def split(make_module: Callable[[], nn.Module], head: str = "fc") -> SplitModule:
    """Split a network into a body and a linear head.

    Args:
        make_module: makes a new module whenever it is called: a class, or `lambda: Net(...)`. Its
            last operation is an `nn.Linear`; it takes one tensor, (n, ...).
        head: the name of that layer in the module, dots included ("decoder.fc", "4").

    Returns:
        The functions that the hooks of a problem call: `init_body`, `init_head`, `features`.

    Raises:
        UnknownNameError: the module has no linear layer of that name.
        ArgumentError: the module is not a function of its parameters alone (batch norm or dropout
            in training mode), shares weights between head and body, has frozen or lazy parameters
            or a recurrent layer, is not on the CPU; or `make_module` does not make a new one.

    Examples:
        >>> import bilevel, torch
        >>> parts = bilevel.split(
        ...     lambda: torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(),
        ...                                 torch.nn.Linear(8, 1)), head="2")
        >>> body = parts.init_body(torch.Generator().manual_seed(0))
        >>> sorted(body), parts.features(body, torch.ones(5, 3)).shape, parts.head_shape
        (['0.bias', '0.weight'], torch.Size([5, 8]), (9,))
    """
    return SplitModule(make_module, head)


def assign(
    module: nn.Module, body: dict[str, Tensor], head: Tensor, *, run: int | None = None
) -> nn.Module:
    """Write a solution into a module, in place.

    The head goes to the linear layer whose parameters the body lacks.

    Args:
        module: of the architecture that was split.
        body: of one run; of all runs, (R, ...), with `run`.
        head: of the same.
        run: which run to take from bodies and heads with a run axis; None: they have none.

    Returns:
        The module, which now predicts what the solution predicts.

    Raises:
        ShapeError: names or shapes do not fit the module; nothing is written then.
        ArgumentError: there is no such run.

    Examples:
        >>> import bilevel, torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Linear(1, 1))
        >>> body = {"0.weight": torch.full((1, 1), 2.0), "0.bias": torch.zeros(1)}
        >>> _ = bilevel.assign(net, body, torch.tensor([3.0, 1.0]))    # weight 3, bias 1
        >>> net(torch.ones(1, 1)).item()
        7.0
    """
    if run is not None:
        if not 0 <= run < len(head):
            raise ArgumentError(f"`run` must be from 0 to {len(head) - 1}, got {run}.")
        body, head = {name: leaf[run] for name, leaf in body.items()}, head[run]
    named = dict(module.named_parameters())
    layer = _missing_layer(module, body)
    rows, outputs = layer.in_features + (layer.bias is not None), layer.out_features
    wrong = [
        f"{name} is {tuple(leaf.shape)} for {tuple(named[name].shape)}"
        for name, leaf in body.items()
        if leaf.shape != named[name].shape
    ]
    if tuple(head.shape) != (rows, outputs) and (outputs > 1 or tuple(head.shape) != (rows,)):
        wrong.append(f"the head is {tuple(head.shape)} for ({rows}, {outputs})")
    if wrong:
        raise ShapeError(
            f"The solution does not fit the module: {'; '.join(wrong)}. Bodies and heads of a "
            "`Solution` have a run axis: pass `run=0` for its first run."
        )
    columns = head.reshape(rows, outputs)
    with torch.no_grad():
        for name, leaf in body.items():
            named[name].copy_(leaf)
        layer.weight.copy_(columns[: layer.in_features].T)
        if layer.bias is not None:
            layer.bias.copy_(columns[-1])
    return module


class _Tap(nn.Module):
    """Stands where the head was and hears what the head would be given.

    Its outputs are distinct numbers of both signs, so that the network returns them, and not
    something else, only if it does nothing after its head.
    """

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs
        self.heard: list[tuple[Tensor, Tensor]] = []

    @contextlib.contextmanager
    def listening(self) -> Iterator[list[tuple[Tensor, Tensor]]]:
        """Hear the calls made meanwhile: pairs of what came in and what went out."""
        self.heard = []
        try:
            yield self.heard
        finally:
            self.heard = []

    def forward(self, z: Tensor) -> Tensor:
        """A stand-in for the head's outputs."""
        shape = (*z.shape[:-1], self.outputs)
        count = torch.Size(shape).numel()
        stand_in = torch.linspace(-100, 100, count, dtype=z.dtype, device=z.device).reshape(shape)
        self.heard.append((z, stand_in.clone()))
        return stand_in


def _missing_layer(module: nn.Module, body: dict[str, Tensor]) -> nn.Linear:
    """The linear layer whose parameters are the ones that `body` lacks."""
    named = dict(module.named_parameters())
    missing = {name for name in named if name not in body}
    ids = {id(named[name]) for name in missing}
    found = [
        layer
        for layer in linear_layers(module).values()
        if {id(p) for p in layer.parameters()} == ids
    ]
    unknown = sorted(set(body) - set(named))
    if unknown or not found:
        raise ShapeError(
            "The body must have the names of all parameters of the module but those of one linear "
            f"layer, its head. It lacks {sorted(missing)}; the module lacks {unknown}."
        )
    return found[0]
