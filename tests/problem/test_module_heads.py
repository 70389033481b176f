"""The head of a split network is its weight and bias; what stands in its place shows neither."""

import math

import pytest
import torch
from split_networks import ROWS, Net, changed, net, start
from torch import nn
from torch.nn.utils import parametrizations, prune

import bilevel
from bilevel.errors import ArgumentError, ProblemError, ShapeError
from bilevel.problem.network.tap import Tap, Withheld, _numbers, withheld


def scaled_forward(made):
    plain = made.fc.forward
    made.fc.forward = lambda z: 3 * plain(z)


def frozen_column(made):
    """A mask on the gradient, as a user freezes a part of a weight."""
    made.first.weight.register_hook(lambda slope: slope * (ROWS[:4] > 0))


ATTACHED = {
    "spectral norm": (lambda n: nn.utils.spectral_norm(n.fc), "'weight_orig'.*'weight_u'"),
    "mask": (lambda n: prune.random_unstructured(n.fc, "weight", 2), "'weight_mask'"),
    "mask of the bias": (lambda n: prune.identity(n.fc, "bias"), "'bias_orig'"),
    "parameter": (
        lambda n: n.fc.register_parameter("scale", nn.Parameter(torch.ones(1))),
        "parameter 'scale'",
    ),
    "buffer": (lambda n: n.fc.register_buffer("mask", torch.ones(4)), "buffer 'mask'"),
    "adapter": (lambda n: n.fc.add_module("adapter", nn.Linear(4, 1)), "module 'adapter'"),
    "forward hook": (
        lambda n: n.fc.register_forward_hook(lambda m, i, o: o + 1),
        "has forward hooks",
    ),
    "pre-hook": (
        lambda n: n.fc.register_forward_pre_hook(lambda m, i: (2 * i[0],)),
        "has forward pre-hooks",
    ),
    "backward hook": (
        lambda n: n.fc.register_full_backward_hook(lambda m, i, o: None),
        "has backward hooks",
    ),
    "patched forward": (scaled_forward, "a 'forward' of its own"),
    "broadcast bias": (
        lambda n: setattr(n.fc, "bias", nn.Parameter(torch.zeros(()))),
        r"1 outputs, but its weight has the shape \(1, 4\) and its bias \(\)",
    ),
    "other weight": (
        lambda n: setattr(n.fc, "weight", nn.Parameter(torch.ones(2, 4))),
        r"says 4 inputs and 1 outputs.*\(2, 4\)",
    ),
}


@pytest.mark.parametrize("name", ATTACHED)
def test_a_head_with_more_than_weight_and_bias_is_refused(name):
    attach, message = ATTACHED[name]
    with pytest.raises(ArgumentError, match=f"(?s)The head 'fc' .*{message}"):
        bilevel.split(changed(attach))


@pytest.mark.parametrize("name", ATTACHED)
def test_nothing_is_assigned_to_a_head_that_is_more(name):
    """Its parameters have other names, or it does something else with them."""
    attach, _ = ATTACHED[name]
    parts, made = bilevel.split(Net), changed(attach)()
    before = {key: leaf.clone() for key, leaf in made.state_dict().items()}
    head = parts.init_head(torch.Generator().manual_seed(0))
    with pytest.raises((ArgumentError, ShapeError), match=r"(?s)'fc'|one linear layer"):
        bilevel.assign(made, start(parts), head)
    assert all(torch.equal(leaf, before[key]) for key, leaf in made.state_dict().items())


@pytest.mark.parametrize("norm", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_a_parametrised_head_is_refused(norm):
    with pytest.raises(ArgumentError, match=r"must be an `nn\.Linear`.*ParametrizedLinear"):
        bilevel.split(changed(lambda n: norm(n.fc)))


@pytest.mark.parametrize(
    ("attach", "message"),
    [
        (frozen_column, r"'first\.weight' has hooks"),
        (
            lambda n: n.first.bias.register_post_accumulate_grad_hook(lambda p: None),
            r"'first\.bias' has hooks",
        ),
        (
            lambda n: n.first.register_full_backward_hook(lambda m, i, o: (2 * i[0],)),
            r"first \(Linear\) has backward hooks",
        ),
        (
            lambda n: n.register_full_backward_pre_hook(lambda m, o: (2 * o[0],)),
            r"The module itself \(Net\) has backward pre-hooks",
        ),
    ],
)
def test_hooks_on_gradients_are_refused(attach, message):
    with pytest.raises(ArgumentError, match=message):
        bilevel.split(changed(attach))


def test_outputs_of_the_tap_are_small_ordinary_and_large_of_both_signs():
    """Whatever follows a head and is no identity somewhere meets a number that shows it."""
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        turns = torch.stack([_numbers(3, turn, dtype) for turn in range(5, 11)]).double()
        assert bool(turns.isfinite().all())
        for place in turns.T:
            for sign in (1, -1):
                sizes = (sign * place)[sign * place > 0]
                assert float(sizes.min()) < 1.01e-2
                assert float(sizes.max()) > 99
                assert int(((sizes > 9e-3) & (sizes < 110)).sum()) >= 1
        assert float(turns.abs().max()) > math.sqrt(torch.finfo(dtype).max)
        assert len(_numbers(50, 0, dtype).unique()) == 50


def test_the_tap_is_a_linear_layer_without_memory():
    layer = nn.Linear(4, 3, bias=False)
    layer.note = "kept"
    tap = Tap(layer.eval(), "fc")
    assert isinstance(tap, nn.Linear)
    assert (tap.in_features, tap.out_features, tap.bias, tap.note) == (4, 3, None, "kept")
    assert not tap.training
    with tap.listening() as heard:
        assert torch.equal(tap(ROWS[:, :4]), torch.zeros(23, 3, dtype=torch.float64))
    assert torch.equal(heard[0].z, ROWS[:, :4])
    shown = tap.parameters_like(ROWS, checked=True)["fc.weight"]
    assert tap.weight.dtype == torch.float32
    kept = tap.parameters_like(ROWS, checked=False)["fc.weight"]
    assert bool(kept.isnan().all())
    assert kept.untyped_storage().nbytes() == 8
    for weight in (shown, kept):
        assert isinstance(weight, nn.Parameter)
        assert (weight.shape, weight.dtype) == ((3, 4), torch.float64)


def test_a_withheld_tensor_tells_all_but_its_numbers():
    w = withheld(torch.Size([2, 3]), torch.float64, torch.device("cpu"))
    plain = torch.zeros(2, 3, dtype=torch.float64)
    for view in (w, w.detach(), w.data, w.T.mT):
        assert type(view) is Withheld
        assert (view.shape, view.dtype, view.device) == (plain.shape, plain.dtype, plain.device)
    assert (w.ndim, w.dim(), len(w), w.numel(), w.size(1), w.element_size()) == (2, 2, 2, 6, 3, 8)
    assert (w.type(), w.is_floating_point(), w.is_cuda) == (plain.type(), True, False)
    assert "shape=(2, 3)" in repr(w)
    for made in (w.new_ones(3), torch.ones_like(w), torch.ones(2, 3).to(w), plain.type_as(w) + 1):
        assert type(made) is torch.Tensor
        assert made.dtype == torch.float64
        assert bool((made == 1).all())
    for use in (
        lambda: w + 1,
        lambda: 1 - w,
        lambda: plain @ w.T,
        lambda: w[0],
        lambda: w.sum(),
        lambda: float(w[0, 0]),
        lambda: w.tolist(),
        lambda: w.numpy(),
        lambda: torch.stack([plain, w]),
        lambda: torch.where(w > 0, plain, plain),
        lambda: w.to(torch.float32),
        lambda: w.type(torch.float32),
        lambda: w.clone(),
        lambda: plain.copy_(w),
        lambda: w.zero_(),
        lambda: bool(w.any()),
        lambda: torch.linalg.norm(w),
        lambda: nn.functional.linear(plain, w),
        lambda: list(w),
    ):
        with pytest.raises(ArgumentError, match="uses the numbers of its head's weight or bias"):
            use()


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's own compiler
def test_a_network_that_reads_its_head_can_be_traced():
    parts = bilevel.split(net(lambda s, x: s.fc(s.z(x).to(s.fc.bias.dtype) * len(s.fc.bias))))
    body = start(parts)
    bodies = {key: torch.stack([leaf, 2 * leaf]) for key, leaf in body.items()}

    def features(bodies, rows):
        return torch.func.vmap(parts.features, (0, None))(bodies, rows)

    expected = torch.tanh(ROWS.float() @ body["first.weight"].T + body["first.bias"])
    found = torch.compile(features, backend="eager", fullgraph=True)(bodies, ROWS.float())
    torch.testing.assert_close(found[0], expected)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's own compiler
def test_a_compiled_network_can_be_split_and_is_compared():
    """What the compiler makes of it is used; what is compared is what was written."""
    written = {
        "reads": lambda s, x: s.fc(s.z(x).to(s.fc.weight.device).view(-1, s.fc.in_features)),
        "bound": lambda s, x: s.fc(s.z(x)).clamp(-1e8, 1e8),
    }
    parts, bound = (
        bilevel.split(lambda f=f: torch.compile(net(f)(), backend="eager"), "_orig_mod.fc")
        for f in written.values()
    )
    body, rows = start(parts), ROWS.float()
    bodies = {key: torch.stack([leaf, leaf]) for key, leaf in body.items()}
    weight, bias = body.values()
    expected = torch.tanh(rows @ weight.T + bias)
    torch.testing.assert_close(parts.features(body, rows), expected)
    found = torch.func.vmap(parts.features, (0, None))(bodies, rows)
    torch.testing.assert_close(found[1], expected)
    with pytest.raises(ProblemError, match="does something after its head"):
        bound.features(start(bound), rows)


def test_hooks_of_a_container_around_the_head_are_honoured_or_refused():
    """What they do to the features is done, what they do to the outputs is refused."""

    def make(attach):
        made = nn.Sequential(nn.Linear(5, 4), nn.Sequential(nn.Tanh(), nn.Linear(4, 1)))
        attach(made[1])
        return made

    doubled = bilevel.split(
        lambda: make(lambda c: c.register_forward_pre_hook(lambda m, i: (2 * i[0],))), "1.1"
    )
    body = start(doubled, torch.float64)
    weight, bias = body.values()
    expected = torch.tanh(2 * (ROWS @ weight.T + bias))
    torch.testing.assert_close(doubled.features(body, ROWS), expected)
    shifted = bilevel.split(
        lambda: make(lambda c: c.register_forward_hook(lambda m, i, o: o + 1e-6)), "1.1"
    )
    with pytest.raises(ProblemError, match=r"does something after its head '1\.1'"):
        shifted.features(body, ROWS)
