"""What `advise` says to paste makes the steps that it advises; modules and their data."""

import pytest
import torch

import bilevel
from bilevel import loops
from bilevel.analysis.advice.paste import strategy_line, torch_lines
from bilevel.analysis.advice.setting import Setting
from bilevel.errors import ArgumentError
from problems.planted_scales import Pretrained


def setting(problem, optimizer, order="simultaneous"):
    return Setting(problem, optimizer, order, None, "iid", torch.float64, "cpu")


@pytest.mark.parametrize(
    "optimizer",
    [
        bilevel.RMSProp(eps=1e-7),
        bilevel.SGD(0.9),
        bilevel.AdamW(),
        bilevel.Clipped(1.0, bilevel.SGD()),
    ],
    ids=repr,
)
def test_the_line_makes_the_strategy(optimizer):
    at = setting(Pretrained(), optimizer)
    for rates in ((4.58e-05, 1880.0), (0.01, 0.01)):
        made = eval(strategy_line(at, rates), {"bilevel": bilevel})
        assert repr(made) == repr(at.strategy(*rates))


class Net(torch.nn.Module):
    """Images of one channel."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU(), torch.nn.Flatten()
        )
        self.fc = torch.nn.Linear(2 * 4, 3)

    def forward(self, images):
        return self.fc(self.layers(images))


class Small(Net):
    """One hidden layer."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(16, 8), torch.nn.Tanh()
        )


@pytest.mark.parametrize(
    "optimizer", [bilevel.RMSProp(), bilevel.SGD(0.9), bilevel.Adam(), bilevel.AdamW()], ids=repr
)
@pytest.mark.parametrize("rates", [(1e-3, 1e-2), (1e-3, 1e-3)], ids=["two", "one"])
def test_the_line_of_torch_makes_the_same_steps(optimizer, rates):
    made = torch.Generator().manual_seed(0)
    images = torch.randn(12, 1, 4, 4, generator=made, dtype=torch.float64)
    labels = torch.arange(12) % 3
    problem = loops.from_module(Net, "cross_entropy", (images, labels), ridge=0)
    at = setting(problem, optimizer)
    options = {"steps": 5, "seeds": [3], "every": 5, "batch_size": None, "dtype": torch.float64}
    ended = bilevel.solve(problem, at.strategy(*rates), **options)
    expected = bilevel.assign(Net().double(), ended.body, ended.head, run=0)
    rows = at.data([3])
    start = rows.initial(problem.init_body, "body"), rows.initial(problem.init_head, "head")
    model = bilevel.assign(Net().double(), *start, run=0)
    names = {"torch": torch, "model": model}
    exec(torch_lines(at, rates, "fc"), names)
    optimizer = names["optimizer"]
    moving = loops.group_rates(model, optimizer)
    assert not moving.problems
    for _ in range(5):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, expected.get_parameter(name), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("rates", [(1e-3, 1e-2), (1e-3, 1e-3)], ids=["two", "one"])
def test_an_optimiser_that_torch_has_not_gets_groups(rates):
    at = setting(Pretrained(), bilevel.Clipped(1.0, bilevel.SGD()))
    names = {"torch": torch, "model": Net()}
    exec(torch_lines(at, rates, "fc"), names)
    assert [group["lr"] for group in names["groups"]] == list(rates)


@pytest.mark.parametrize(("outputs", "factor"), [(1, "0.5"), (2, None), (3, "1.5")])
@pytest.mark.parametrize("optimizer", [bilevel.SGD(0.9), bilevel.RMSProp()], ids=repr)
def test_rates_for_the_squared_error_of_torch(optimizer, outputs, factor):
    """Steps of SGD grow with the loss, which torch divides by K and not by 2."""
    made = torch.Generator().manual_seed(0)
    x, y = (torch.randn(12, n, generator=made, dtype=torch.float64) for n in (4, outputs))

    def net():
        return torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Linear(5, outputs))

    problem = loops.from_module(net, "mse", (x, y), "1", ridge=0)
    at, rates = setting(problem, optimizer), (1e-3, 1e-2)
    line = torch_lines(at, rates, "1")
    assert ("with nn.MSELoss()" in line) == (factor is not None and "SGD" in line)
    if "with nn.MSELoss()" not in line:
        return
    assert line.endswith(f"all rates times {factor}")
    options = {"steps": 5, "seeds": [3], "every": 5, "batch_size": None, "dtype": torch.float64}
    ended = bilevel.solve(problem, at.strategy(*rates), **options)
    expected = bilevel.assign(net().double(), ended.body, ended.head, run=0)
    rows = at.data([3])
    start = rows.initial(problem.init_body, "body"), rows.initial(problem.init_head, "head")
    model = bilevel.assign(net().double(), *start, run=0)
    names = {"torch": torch, "model": model}
    exec(line, names)
    for group in names["optimizer"].param_groups:
        group["lr"] *= float(factor)
    for _ in range(5):
        names["optimizer"].zero_grad()
        torch.nn.MSELoss()(model(x), y).backward()
        names["optimizer"].step()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, expected.get_parameter(name), rtol=1e-9, atol=1e-12)


def test_a_module_gets_lines_of_torch():
    made = torch.Generator().manual_seed(0)
    images = torch.randn(60, 1, 4, 4, generator=made)
    labels = images.mean((1, 2, 3)).mul(4).round().clamp(-1, 1).long() + 1
    advice = bilevel.advise(
        Small, "cross_entropy", (images, labels), steps=20, seeds=2, held_out_seeds=3
    )
    assert advice.strategy.order == "simultaneous"
    assert advice.metric == "test_cross_entropy"
    assert "torch.optim.RMSprop(" in advice.paste
    names = {"torch": torch, "model": Small()}
    exec(advice.paste, names)
    moving = {group["lr"] for group in names["optimizer"].param_groups}
    assert moving == {advice.body_lr, advice.head_lr}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((Net,), "a function that makes a module with its loss and its data"),
        ((Net, "cross_entropy"), "a function that makes a module with its loss and its data"),
        ((Pretrained(), "mse"), "a problem has its own"),
        ((3,), "a function that makes a module with its loss and its data"),
    ],
)
def test_a_module_comes_with_its_loss_and_data(arguments, words):
    with pytest.raises(ArgumentError, match=words):
        bilevel.advise(*arguments)
