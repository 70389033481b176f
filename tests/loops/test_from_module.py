"""A problem from a module and rows: the numbers of the module, and what is refused by name."""

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, IterableDataset, TensorDataset

import bilevel
from bilevel import errors, loops
from bilevel.exact import ridge_head
from tests.support.loop_models import Picture, pictures

X = torch.randn(40, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
Y = X.sin().sum(1)


def net(outputs=1, bias=True):
    """A factory of small networks."""
    return lambda: nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, outputs, bias=bias))


class Pairs(Dataset):
    """Rows that are read one by one."""

    def __init__(self, inputs, targets):
        self.inputs, self.targets, self.reads = inputs, targets, 0

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, i):
        self.reads += 1
        return self.inputs[i].numpy(), self.targets[i].item()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("outputs", [1, 2])
def test_the_best_response_is_the_ridge_head_of_the_modules_features(outputs, bias):
    targets = Y if outputs == 1 else torch.stack([Y, Y.square()], 1)
    problem = loops.from_module(net(outputs, bias), "mse", (X, targets), "2", ridge=0.1)
    body = {k: v.double() for k, v in problem.init_body(torch.Generator().manual_seed(2)).items()}
    z = torch.tanh(X @ body["0.weight"].T + body["0.bias"])
    expected = ridge_head(z, targets, 0.1, fit_bias=bias)
    torch.testing.assert_close(bilevel.best_response(problem, body).head, expected)


def test_the_objective_is_the_loss_of_torch_on_the_module():
    x, y = pictures(30)
    problem = loops.from_module(Picture, "cross_entropy", (x, y), ridge=0.2)
    random = torch.Generator().manual_seed(3)
    body, head = problem.init_body(random), problem.init_head(random)
    with torch.no_grad():
        logits = bilevel.assign(Picture(), body, head)(x)
    expected = nn.functional.cross_entropy(logits, y) + 0.1 * head[:-1].square().sum()
    found = problem.head_objective(body, head, problem.data())
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kind", [torch.float32, torch.int32, torch.int64, torch.bool])
def test_labels_of_two_classes_may_be_written_in_every_way(kind):
    labels = (Y > 0).to(kind)
    problem = loops.from_module(net(), "bce", (X, labels.unsqueeze(1)), "2")
    assert torch.equal(problem.data()["train"].targets, (Y > 0).long())


@pytest.mark.parametrize(
    ("loss", "targets"),
    [(bilevel.SquaredError(), Y), (bilevel.HuberLoss(), Y), (bilevel.LogisticLoss(), Y > 0)],
)
def test_criteria_of_the_library_are_losses(loss, targets):
    problem = loops.from_module(net(), loss, (X, targets), "2")
    assert problem.criterion is loss
    bilevel.solve(problem, bilevel.BestResponse(1e-2), steps=1, seeds=1)


def test_it_is_compared_and_checked_as_every_problem():
    problem = loops.from_module(net(), "mse", (X, Y), "2", validation=0.2, test=0.2)
    pair = {"two": bilevel.TwoTimescale(1e-3, 1e-2), "exact": bilevel.BestResponse(1e-3)}
    comparison = bilevel.compare(problem, pair, seeds=2, steps=2, every=2)
    assert comparison.status == {"two": ["COMPLETED"] * 2, "exact": ["COMPLETED"] * 2}
    assert {"test_mse", "validation_mse"} <= set(comparison.history["two"])
    bilevel.check_problem(problem)


def test_rows_are_taken_from_tensors_arrays_data_sets_and_groups():
    rows = Pairs(X, Y)
    expected = loops.from_module(net(), "mse", (X, Y), "2").data()["train"]
    for data in (
        [X.numpy(), Y.numpy()], rows, TensorDataset(X, Y), {"train": (X, Y)}, bilevel.Batch(X, Y)
    ):  # fmt: skip
        found = loops.from_module(net(), "mse", data, "2").data()["train"]
        assert torch.equal(found.inputs, expected.inputs)
        assert torch.equal(found.targets, expected.targets)
    assert rows.reads == len(rows)
    data = {"train": (X[:20], Y[:20]), "validation": Pairs(X[20:30], Y[20:30]), "test": (X, Y)}
    groups = loops.from_module(net(), "mse", data, "2").data()
    assert {name: len(rows.inputs) for name, rows in groups.items()} == {
        "train": 20, "validation": 10, "test": 40
    }  # fmt: skip


def test_shares_are_rows_of_their_own_the_same_every_time():
    groups = [
        loops.from_module(net(), "mse", (X, Y), "2", validation=0.25, test=0.1).data()
        for _ in range(2)
    ]
    assert [len(rows.inputs) for rows in groups[0].values()] == [26, 10, 4]
    rows = torch.cat([rows.inputs for rows in groups[0].values()])
    assert torch.equal(rows.sort(0).values, X.sort(0).values)
    assert all(torch.equal(groups[0][k].inputs, groups[1][k].inputs) for k in groups[0])


def test_tokens_stay_whole_numbers():
    tokens = torch.arange(60).reshape(20, 3) % 7

    def words():
        return nn.Sequential(nn.Embedding(7, 4), nn.Flatten(), nn.Linear(12, 3))

    problem = loops.from_module(words, "cross_entropy", (tokens, tokens.sum(1) % 3), "2")
    assert problem.data()["train"].inputs.dtype == torch.int64
    bilevel.solve(problem, bilevel.uniform(1e-2), steps=2, seeds=2, batch_size=5)


class Stream(IterableDataset):
    """Rows without numbers."""

    def __iter__(self):
        return iter([(X[0], Y[0])])


RAGGED = Pairs([torch.zeros(3), torch.zeros(2)], Y)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"loss": "mae"}, errors.UnknownNameError, "no loss 'mae'"),
        ({"loss": nn.MSELoss()}, errors.ArgumentError, r"Did you mean bilevel.SquaredError\(\)"),
        ({"loss": nn.functional.mse_loss}, errors.ArgumentError, '"cross_entropy"'),
        ({"head": "fc"}, errors.UnknownNameError, "no linear layer 'fc'"),
        ({"make_model": net()()}, errors.ArgumentError, "makes a new module"),
        ({"make_model": lambda: 3}, errors.ArgumentError, "must return an `nn.Module`"),
        ({"data": X}, errors.DataError, "`data` must be"),
        ({"data": (X, Y, Y)}, errors.DataError, "`data` must be"),
        ({"data": (X, Y[:5])}, errors.ShapeError, "40 rows of inputs and 5 rows of targets"),
        ({"data": (X, torch.tensor(1.0))}, errors.ShapeError, "row axis"),
        ({"data": (X[:0], Y[:0])}, errors.DataError, "empty"),
        ({"data": (X * torch.nan, Y)}, errors.DataError, "NaN"),
        ({"data": (X, ["a"] * 40)}, errors.DataError, r"`data\[1\]` must hold numbers"),
        ({"data": (X, (Y > 0).long())}, errors.DataError, "floating point"),
        ({"data": (X[:, :2], Y)}, errors.DataError, "cannot be called on the inputs"),
        ({"data": (X, torch.stack([Y, Y], 1))}, errors.ShapeError, "`outputs = None`"),
        ({"data": {"train": (X, Y), "dev": (X, Y)}}, errors.DataError, "'dev'"),
        ({"data": {"test": (X, Y)}}, errors.DataError, "must have 'train'"),
        ({"data": {"train": (X, Y)}, "test": 0.1}, errors.ArgumentError, "dict of groups"),
        ({"data": Stream()}, errors.DataError, "no numbers and no count"),
        ({"data": RAGGED}, errors.ShapeError, "row 1"),
        ({"data": Pairs(X[:0], Y)}, errors.DataError, "empty"),
        ({"validation": 0.6, "test": 0.5}, errors.ArgumentError, "leave some"),
        ({"validation": 0.001}, errors.ArgumentError, "leave some"),
        ({"ridge": -1.0}, errors.ArgumentError, "`ridge`"),
        ({"loss": "cross_entropy"}, errors.ShapeError, '"bce"'),
        ({"loss": "bce", "make_model": net(2)}, errors.ShapeError, '"cross_entropy"'),
        ({"loss": "bce"}, errors.DataError, "fractions"),
    ],
)
def test_what_cannot_be_is_refused_by_name(change, error, text):
    given = {"make_model": net(), "loss": "mse", "data": (X, Y), "head": "2"} | change
    with pytest.raises(error, match=text):
        loops.from_module(**given)


def test_the_module_is_looked_at_when_the_problem_is_made():
    class Doubled(Picture):
        def forward(self, pictures):
            return 2 * super().forward(pictures)

    with pytest.raises(errors.ProblemError, match="fc"):
        loops.from_module(Doubled, "cross_entropy", pictures(30))
    state = torch.random.get_rng_state()
    loops.from_module(Picture, "cross_entropy", pictures(30))
    assert torch.equal(torch.random.get_rng_state(), state)
