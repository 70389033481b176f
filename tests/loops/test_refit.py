"""Exact heads in a loop: the right numbers, and nothing else is changed."""

import copy
import io

import numpy as np
import pytest
import torch
from torch import nn

import bilevel
from bilevel import errors, loops
from bilevel.exact import softmax_head
from tests.support.loop_models import Noisy, Picture, Transformer, pictures, sequences

EVERY = 3


def batches(steps, outputs=None, size=12):
    """Pictures with labels, or with that many real targets."""
    for k in range(steps):
        x, y = pictures(size, seed=k)
        yield x, y if outputs is None else x[:, 0, :2, :outputs].flatten(1)[:, :outputs].sin()


def loss_of(outputs, targets):
    """As users write them: labels of positions, labels, or real targets."""
    if targets.is_floating_point():
        return nn.functional.mse_loss(outputs, targets)
    return nn.functional.cross_entropy(outputs.flatten(0, -2), targets.flatten())


def trained(model, rows, refit=None, *, dtype=torch.float64, kind=torch.optim.AdamW):
    """A loop in plain torch; its optimiser, and when the head was refitted."""
    torch.manual_seed(5)
    optimizer, hits = kind(model.parameters(), 1e-2), []
    for x, y in rows:
        x = x.to(dtype) if x.is_floating_point() else x
        y = y.to(dtype) if y.is_floating_point() else y
        loss_of(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
        if refit is not None:
            hits.append(refit.step(y))
    return optimizer, hits


def made(kind, **options):
    torch.manual_seed(1)
    return kind(**options).double()


@pytest.mark.parametrize("decay", [1.0, 0.5])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("outputs", [1, 2])
def test_sums_that_forget_give_the_weighted_ridge_head(outputs, bias, decay):
    model, heard = made(Noisy, outputs=outputs, bias=bias), []
    model.fc.register_forward_pre_hook(lambda _, given: heard.append(given[0].detach()))
    rows = [(x, t) for x, t in batches(EVERY, outputs)]
    with loops.HeadRefit(model, "fc", 0.1, EVERY, decay=decay) as refit:
        assert trained(model, rows, refit)[1] == [False, False, True]
    z, t = torch.cat(heard).numpy(), torch.cat([t for _, t in rows]).double().numpy()
    w = np.repeat(decay ** np.arange(EVERY)[::-1], 12)
    design = np.column_stack([z, np.ones(len(z))]) if bias else z
    penalty = 0.1 * w.sum() * np.diag([1.0] * 36 + [0.0] * bias)
    theta = np.linalg.solve(design.T @ (w[:, None] * design) + penalty, design.T @ (w[:, None] * t))
    found = model.fc.weight.detach().numpy()
    np.testing.assert_allclose(found.T, theta[:36], rtol=1e-9, atol=1e-11)
    if bias:
        np.testing.assert_allclose(model.fc.bias.detach().numpy(), theta[36], rtol=1e-9, atol=1e-11)


def test_features_far_from_zero_lose_no_digits():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1)).double()
    x = torch.randn(50, 3).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(3))
        model[0].bias.fill_(1e6)
    with loops.HeadRefit(model, "1", 1e-3, 1) as refit:
        model(x)
        refit.step(x.sum(1))
    expected = np.linalg.solve(
        np.cov(x.T.numpy(), bias=True) + 1e-3 * np.eye(3),
        ((x - x.mean(0)).T @ x.sum(1, keepdim=True)).numpy() / 50,
    )
    np.testing.assert_allclose(model[1].weight.detach().numpy().T, expected, rtol=1e-6)


def slope(model, layer, z, y, ridge):
    """The gradient of the mean loss and the penalty in the head, by autograd on given features."""
    w, b = (p.detach().clone().requires_grad_() for p in (layer.weight, layer.bias))
    outputs = z @ w.T + b
    if w.shape[0] == 1:
        loss = nn.functional.binary_cross_entropy_with_logits(outputs[:, 0], y.double())
    else:
        loss = nn.functional.cross_entropy(outputs, y)
    absent = len(y.unique()) < max(2, w.shape[0])
    (loss + ridge / 2 * (w.square().sum() + absent * b.square().sum())).backward()
    return torch.cat([w.grad.flatten(), b.grad]).abs().max().item()


@pytest.mark.parametrize("outputs", [10, 1])
def test_heads_of_classes_are_those_of_the_last_rows_at_the_new_body(outputs):
    model, ridge = made(Noisy, outputs=outputs), 0.02
    rows = [(x, y if outputs > 1 else y % 2) for x, y in batches(EVERY)]
    with loops.HeadRefit(model, model.fc, ridge, EVERY, rows=20) as refit:
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for x, y in rows:
            out = model(x.double())
            loss = out.square().mean() if outputs == 1 else loss_of(out, y)
            loss.backward()
            optimizer.step()
            refit.step(y)
    model.eval()
    x, y = (torch.cat(parts)[-20:] for parts in zip(*rows, strict=True))
    with torch.no_grad():
        z = torch.relu(model.norm(model.convolution(x.double()))).flatten(1)
    assert slope(model, model.fc, z, y, ridge) < 1e-12


def test_every_position_of_a_sequence_is_a_row_but_those_that_are_ignored():
    model = made(Transformer)
    x, y = sequences(5)
    y[:, 3] = -100
    with loops.HeadRefit(model, "head", 0.02, 1) as refit:
        model(x)
        refit.step(y)
    model.eval()
    with torch.no_grad():
        z = model.block(model.embed(x) + model.place)
    kept = y.flatten() >= 0
    found = slope(model, model.head, z.flatten(0, 1)[kept], y.flatten()[kept], 0.02)
    assert found < 1e-12


CASES = {
    "pictures": lambda steps: (made(Noisy), "fc", list(batches(steps))),
    "regression": lambda steps: (made(Noisy, outputs=2), "fc", list(batches(steps, 2))),
    "transformer": lambda steps: (
        made(Transformer), "head", [sequences(5, seed=k) for k in range(steps)]
    ),
}  # fmt: skip


def state(model, optimizer, head):
    """Everything that a loop has, but for the head's numbers."""
    kept = {k: v.clone() for k, v in model.state_dict().items() if not k.startswith(head)}
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    modes = [module.training for module in model.modules()]
    moments = copy.deepcopy(optimizer.state_dict())
    return {
        "model": kept,
        "grads": [g for g in grads if g is not None],
        "modes": torch.tensor(modes),
        "moments": [v for one in moments["state"].values() for v in one.values()],
        "random": torch.random.get_rng_state(),
    }


def assert_same(one, other):
    assert one["model"].keys() == other["model"].keys()
    assert all(torch.equal(one["model"][k], other["model"][k]) for k in one["model"])
    for name in ("grads", "moments"):
        assert len(one[name]) == len(other[name])
        assert all(torch.equal(a, b) for a, b in zip(one[name], other[name], strict=True))
    assert torch.equal(one["modes"], other["modes"])
    assert torch.equal(one["random"], other["random"])


@pytest.mark.parametrize("name", CASES)
def test_the_body_is_bitwise_that_of_the_loop_without_until_a_refit_changed_the_head(name):
    plain, head, rows = CASES[name](EVERY)
    without = state(plain, trained(plain, rows)[0], head)
    model, head, rows = CASES[name](EVERY)
    with loops.HeadRefit(model, head, 0.05, EVERY) as refit:
        optimizer, hits = trained(model, rows, refit)
    assert hits == [False, False, True]
    assert_same(state(model, optimizer, head), without)  # the refit itself included
    before, after = (m.get_parameter(f"{head}.weight") for m in (plain, model))
    assert not torch.equal(before, after)


@pytest.mark.parametrize("name", CASES)
def test_a_loop_that_loads_its_state_goes_on_with_the_same_numbers(name):
    whole, head, rows = CASES[name](4 * EVERY - 1)
    with loops.HeadRefit(whole, head, 0.05, EVERY, rows=50) as refit:
        trained(whole, rows, refit, kind=torch.optim.SGD)
    expected = {k: v.clone() for k, v in whole.state_dict().items() if "num_batches" not in k}

    model, cut = CASES[name](1)[0], EVERY + 2
    torch.manual_seed(5)
    first = loops.HeadRefit(model, head, 0.05, EVERY, rows=50)
    trained(model, rows[:cut], first, kind=torch.optim.SGD)
    random, file = torch.random.get_rng_state(), io.BytesIO()
    torch.save({"refit": first.state_dict(), "model": model.state_dict()}, file)
    first.close()
    file.seek(0)
    stored = torch.load(file, weights_only=True)
    again = CASES[name](1)[0]
    again.load_state_dict(stored["model"])
    second = loops.HeadRefit(again, head, 0.05, EVERY, rows=50)
    second.load_state_dict(stored["refit"])
    seed, torch.manual_seed = torch.manual_seed, lambda _: torch.random.set_rng_state(random)
    try:
        trained(again, rows[cut:], second, kind=torch.optim.SGD)
    finally:
        torch.manual_seed = seed
    assert second.refits == refit.refits == 3
    assert all(torch.equal(again.state_dict()[k], v) for k, v in expected.items())


def test_evaluation_is_not_seen_and_closing_removes_the_hooks():
    model = Picture()
    x, y = pictures(6)
    refit = loops.HeadRefit(model, "fc", 0.1, 1)
    model.eval()
    for _ in range(3):
        model(x)
    model.train()
    model(x)
    assert refit.step(y)
    refit.close()
    refit.close()
    assert not model._forward_pre_hooks
    assert not model.fc._forward_pre_hooks
    with pytest.raises(errors.ArgumentError, match="closed"):
        refit.step(y)


def test_copies_and_files_of_a_model_are_silent():
    model = Picture()
    x, y = pictures(6)
    with loops.HeadRefit(model, "fc", 0.1, 1) as refit:
        twin, file = copy.deepcopy(model), io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        stored = torch.load(file, weights_only=False)
        model(x)
        twin(x)
        stored(x)
        assert refit.step(y)
    assert torch.equal(twin.fc.weight, stored.fc.weight)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's
@pytest.mark.parametrize("ran", [False, True])
def test_compiled_models_are_heard_if_they_did_not_run_before(ran):
    torch.compiler.reset()
    model = Picture()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    x, y = pictures(6)
    if ran:
        compiled(x)
    with loops.HeadRefit(compiled, "fc", 0.1, 2) as refit:
        for _ in range(2):
            compiled(x)
            if ran:
                with pytest.raises(errors.ArgumentError, match="Compiled code that ran before"):
                    refit.step(y)
                break
            refit.step(y)
    assert refit.refits == (not ran)


@pytest.mark.parametrize("outputs", [None, 2])
def test_autocast_and_models_in_other_types(outputs):
    model = Noisy(outputs=outputs or 10)
    refit = loops.HeadRefit(model, "fc", 0.1, 1)
    ((x, y),) = batches(1, outputs)
    with torch.autocast("cpu", torch.bfloat16):
        assert model(x).dtype == torch.bfloat16
        heard = refit._seen[0][0]
        refit.step(y)
    assert heard.dtype != torch.float64
    assert model.fc.weight.dtype == torch.float32
    assert bool(model.fc.weight.isfinite().all())
    half = Noisy(outputs=outputs or 10).to(torch.bfloat16)
    with loops.HeadRefit(half, "fc", 0.1, 1) as refit:
        half(x.bfloat16())
        refit.step(y)
    assert half.fc.weight.dtype == torch.bfloat16


def test_the_optimisers_momentum_can_be_forgotten():
    model = made(Picture)
    x, y = pictures(6)
    with loops.HeadRefit(model, "fc", 0.1, 1) as refit:
        optimizer, _ = trained(model, [(x, y)], refit)
    assert all(parameter in optimizer.state for parameter in refit.parameters)
    for parameter in refit.parameters:
        optimizer.state.pop(parameter, None)
    loss_of(model(x.double()), y).backward()
    optimizer.step()


def test_a_refitted_head_is_the_best_response_of_the_same_problem():
    x, y = pictures(80)
    problem = loops.from_module(Picture, "cross_entropy", (x, y), ridge=0.05)
    body = {k: v.double() for k, v in problem.init_body(torch.Generator().manual_seed(0)).items()}
    response = bilevel.best_response(problem, body).head
    model = bilevel.assign(Picture().double(), body, torch.zeros_like(response))
    with loops.HeadRefit(model, "fc", 0.05, 1) as refit:
        model(x.double())
        refit.step(y)
    found = torch.cat([model.fc.weight.T, model.fc.bias.unsqueeze(0)]).detach()
    torch.testing.assert_close(found, response, rtol=1e-8, atol=1e-10)


def test_weights_of_classes_count():
    model, criterion = made(Picture), bilevel.SoftmaxLoss()
    x, y = pictures(80)
    weights, plain = torch.arange(1.0, 11.0).double(), criterion.rows
    object.__setattr__(criterion, "rows", lambda u, labels: weights[labels] * plain(u, labels))
    with loops.HeadRefit(model, "fc", 0.05, 1, criterion) as refit:
        model(x.double())
        refit.step(y)
    z = torch.relu(model.norm(model.convolution(x.double()))).flatten(1)
    expected = softmax_head(z, y, 0.05, row_weights=weights[y], fit_bias=True)
    torch.testing.assert_close(model.fc.weight.T, expected[:-1], rtol=1e-8, atol=1e-10)
