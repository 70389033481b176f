"""Episodes of digits: the data, the metrics, and training against loops written by hand."""

import pytest
import torch
from sklearn.datasets import load_digits

import bilevel
from bilevel.core.generators import generator
from bilevel.errors import ArgumentError, UnknownNameError
from problems.episodes import episodes
from tests.support.few_shot_loops import LR, by_hand, from_body, ridge_heads, stepped_heads, trained

SMALL = {"shots": 2, "queries": 3, "train": 7, "test": 4, "width": 6}


def small(**options):
    return episodes(**{**SMALL, **options})


def classes_of(inputs):
    """The digits of images (T, n, 64)."""
    images, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(images / 16)
    same = (inputs.unsqueeze(2) == images).all(3)
    assert same.any(2).all()
    return torch.from_numpy(labels)[same.int().argmax(2)]


def test_episodes_have_five_classes_and_new_ones_are_of_the_others():
    groups = small(head="softmax").data(2)
    new = groups["test"]
    seen = []
    for support, query in ((groups["train"], groups["validation"]), (new["train"], new["test"])):
        digits = classes_of(support.inputs), classes_of(query.inputs)
        for found, group, each in zip(digits, (support, query), (2, 3), strict=True):
            for task, labels in zip(found, group.targets, strict=True):
                of_label = [set(task[labels == label].tolist()) for label in range(5)]
                assert all(len(one) == 1 for one in of_label)
                assert labels.bincount().tolist() == [each] * 5
        first = [x[0, ::each].tolist() for x, each in zip(digits, (2, 3), strict=True)]
        assert first[0] == first[1]  # support and query rows of a label are of one digit
        rows = torch.cat([support.inputs, query.inputs], 1)
        assert all(len(task.unique(dim=0)) == 25 for task in rows)
        seen.append(set(digits[0].flatten().tolist()))
        assert len(digits[0][:, ::2].unique(dim=0)) > 1  # labels are in random order
    assert sorted(seen[0] | seen[1]) == list(range(10))
    assert len(seen[0]) == len(seen[1]) == 5


def test_ridge_targets_are_zeros_and_a_one_and_accuracy_is_counted():
    problem = small()
    labels = small(head="softmax").data(1)["validation"].targets
    groups = problem.data(1)
    assert torch.equal(groups["validation"].targets.argmax(2), labels)
    assert torch.equal(groups["validation"].targets.sum(2), torch.ones(7, 15).double())
    body, head = problem.init_body(generator(1, "body")), problem.init_head(generator(1, "head"))
    one = {"test": bilevel.Batch(*(x[0] for x in groups["validation"]))}
    found = problem.metrics(body, head, one)
    z = torch.cat([problem.features(body, one["test"].inputs), torch.ones(15, 1)], 1)
    right = ((z @ head).argmax(1) == labels[0]).double().mean()
    torch.testing.assert_close(found["test_accuracy"], right)
    assert "test_mse" in found


@pytest.mark.parametrize("head", ["ridge", "softmax"])
def test_anil_and_exact_heads_are_those_of_autograd(head):
    """Exact softmax heads have no loop to be compared with here."""
    problem = small(head=head)
    solver = bilevel.FastSGD(0.1, 3, restart=True)
    steps = bilevel.BestResponse(LR, solver, bilevel.Unrolled(3), bilevel.Adam())
    cases = [(steps, stepped_heads(problem, 0.1, 3, from_body))]
    if head == "ridge":
        exact = bilevel.BestResponse(LR, optimizer=bilevel.Adam())
        cases.append((exact, ridge_heads(problem)))
    for strategy, heads in cases:
        first, bodies, batches = trained(problem, strategy, 20, 2)
        for run in range(2):
            start = {name: leaf[run] for name, leaf in first.body.items()}
            expected = by_hand(problem, run, start, [batch[run] for batch in batches], heads)
            for name, leaf in expected.items():
                torch.testing.assert_close(bodies[name][run], leaf, rtol=0, atol=1e-10, msg=name)
            assert not torch.equal(expected["weight1"], start["weight1"])


def test_softmax_heads_train():
    problem = small(head="softmax")
    strategy = problem.strategies(1e-3, 1e-2)["exact head"]
    solution = bilevel.solve(problem, strategy, steps=3, batch_size=3, seeds=2)
    assert not any(status.failed for status in solution.status)
    assert solution.history["test_accuracy"].isfinite().all()
    assert solution.history["head_residual"].max() < 1e-4


def test_arguments_are_checked():
    with pytest.raises(UnknownNameError, match="softmax"):
        small(head="softmaxx")
    with pytest.raises(ArgumentError, match="images of a class"):
        small(shots=100, queries=100)
    with pytest.raises(ArgumentError, match="`queries`"):
        small(queries=0)
