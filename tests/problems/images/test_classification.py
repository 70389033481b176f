"""Classification: its data, its objective and gradients by hand, its options, its mistakes."""

import re
import sys

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_digits

import bilevel
from bilevel.commands.main import main
from bilevel.core.generators import generator
from bilevel.errors import ArgumentError, DataError, UnknownNameError
from bilevel.problem import registry
from bilevel.problem.network.hidden_layers import Network
from problems import image_classification
from problems.classification import Classification, breast_cancer, digits
from problems.image_classification import cifar10, fashion_mnist, image_problem, mnist, scaled
from problems.images import Images, places
from problems.images.sources import CIFAR10, FASHION_MNIST

RANDOM = np.random.default_rng(8)
DEBIAN = places.SHARED / "fashion-mnist"
NO_FILES = f"{DEBIAN} is not there: apt-get install dataset-fashion-mnist"


def start(problem, seed=0):
    """A body and a head, double."""
    body, head = problem.init_body(generator(seed, "body")), problem.init_head(generator(3, "head"))
    return {name: leaf.double() for name, leaf in body.items()}, head.double()


def sizes(problem, seed=0):
    return {name: len(group.targets) for name, group in problem.data(seed).items()}


def test_digits_are_those_of_scikit_learn():
    inputs, labels = load_digits(return_X_y=True)
    groups = digits().data(3)
    assert sizes(digits(), 3) == {"train": 1079, "validation": 359, "test": 359}
    together = torch.cat([group.inputs for group in groups.values()]).numpy()
    order = np.lexsort(together.T), np.lexsort(inputs.T)
    np.testing.assert_array_equal(together[order[0]], inputs[order[1]] / 16)
    targets = torch.cat([group.targets for group in groups.values()]).numpy()
    np.testing.assert_array_equal(np.bincount(targets), np.bincount(labels))
    assert not torch.equal(groups["test"].targets, digits().data(4)["test"].targets)


def test_a_numbered_split_is_the_same_for_all_seeds():
    inputs, labels = load_digits(return_X_y=True)
    problem = digits(validation=0, test=360 / 1797, split=0)
    assert not problem.redraws_data
    assert digits().redraws_data
    order = np.random.default_rng(0).permutation(1797)  # the split of the reference values
    for seed in (None, 0, 5):
        groups = problem.data(seed)
        np.testing.assert_array_equal(groups["train"].inputs, inputs[order[:1437]] / 16)
        np.testing.assert_array_equal(groups["test"].targets, labels[order[1437:]])
    other = digits(validation=0, test=360 / 1797, split=1).data()
    assert not torch.equal(other["test"].targets, groups["test"].targets)
    assert "One split (number 0) for all" in problem.note


def test_breast_cancer_is_standardised_with_its_training_rows():
    groups = breast_cancer().data(2)
    assert sizes(breast_cancer(), 2) == {"train": 341, "validation": 114, "test": 114}
    torch.testing.assert_close(groups["train"].inputs.mean(0), torch.zeros(30).double())
    torch.testing.assert_close(groups["train"].inputs.std(0, correction=0), torch.ones(30).double())
    assert groups["test"].inputs.mean(0).abs().max() > 0.01
    targets = torch.cat([group.targets for group in groups.values()])
    assert targets.dtype == torch.int64
    assert int(targets.sum()) == int(load_breast_cancer().target.sum()) == 357


def test_standardised_digits_keep_constant_pixels():
    train = digits(standardise=True).data(0)["train"].inputs
    spread = train.std(0, correction=0)
    assert ((spread - 1).abs() < 1e-12).logical_or(spread == 0).all()
    assert (spread == 0).any()  # some pixels are never written on
    assert train.isfinite().all()


@pytest.mark.parametrize("classes", [2, 3])
def test_the_objective_and_its_gradients_by_hand(classes):
    """The formulas of the documentation, on a network with layers of different widths."""
    x = RANDOM.normal(size=(7, 4))
    y = np.array([0, 1, classes - 1, 0, 1, 1, 0])
    draw = {"train": (x, y), "test": (x[:5], y[:5])}
    network, ridge, decay = Network((5, 3), activation="tanh"), 0.3, 0.2
    problem = Classification(lambda _: draw, classes, network, ridge, weight_decay=decay)
    body, head = start(problem)
    assert {name: tuple(leaf.shape) for name, leaf in body.items()} == {
        "weight1": (4, 5),
        "bias1": (5,),
        "weight2": (5, 3),
        "bias2": (3,),
    }
    assert head.shape == ((4,) if classes == 2 else (4, 3))
    first = torch.tanh(torch.from_numpy(x) @ body["weight1"] + body["bias1"])
    z = torch.tanh(first @ body["weight2"] + body["bias2"])
    z1 = torch.cat([z, torch.ones(7, 1).double()], 1)
    u, labels = z1 @ head, torch.from_numpy(y)
    if classes == 2:
        loss = torch.log(1 + torch.exp(u)) - labels * u
        p = (torch.sigmoid(u) - labels) / 7
        back = p[:, None] * head[:-1]
    else:
        loss = torch.log(torch.exp(u).sum(1)) - u[torch.arange(7), labels]
        p = (torch.softmax(u, 1) - torch.eye(3).double()[labels]) / 7
        back = p @ head[:-1].T
    squares = body["weight1"].square().sum() + body["weight2"].square().sum()
    value = loss.mean() + ridge / 2 * head.square().sum() + decay / 2 * squares
    batch = {"train": problem.data()["train"]}
    torch.testing.assert_close(problem.head_objective(body, head, batch), value)
    torch.testing.assert_close(
        torch.func.grad(problem.head_objective, 1)(body, head, batch), z1.T @ p + ridge * head
    )
    found = torch.func.grad(problem.head_objective)(body, head, batch)
    inner = back * (1 - z.square())
    torch.testing.assert_close(found["weight2"], first.T @ inner + decay * body["weight2"])
    outer = (inner @ body["weight2"].T) * (1 - first.square())
    expected = torch.from_numpy(x).T @ outer + decay * body["weight1"]
    torch.testing.assert_close(found["weight1"], expected)
    torch.testing.assert_close(found["bias1"], outer.sum(0))


@pytest.mark.parametrize("make", [lambda: digits(width=(16, 12)), lambda: breast_cancer(width=6)])
def test_strategies_train_on_it(make):
    strategies = {
        "two-timescale": bilevel.TwoTimescale(1e-2, 2e-2),
        "uniform": bilevel.uniform(1e-2),
    }
    comparison = bilevel.compare(make(), strategies, seeds=2, steps=60, every=30)
    assert comparison.headline == "test_cross_entropy"
    for name in strategies:
        table = comparison.history[name]
        assert (table["test_cross_entropy"][-1] < table["test_cross_entropy"][0]).all()
        assert table["test_accuracy"][-1].mean() > table["test_accuracy"][0].mean()
        assert {"validation_cross_entropy", "train_accuracy", "head_bound"} <= set(table)


def test_metrics_are_cross_entropy_and_accuracy():
    """With a head of zeros all classes are as likely: log K, and the share of the first class."""
    for problem, classes in ((digits(), 10), (breast_cancer(), 2)):
        body, head = start(problem)
        data = problem.data(0)
        found = problem.metrics(body, torch.zeros_like(head), data)
        assert float(found["test_cross_entropy"]) == pytest.approx(np.log(classes), abs=1e-6)
        share = (data["test"].targets == 0).double().mean()
        assert float(found["test_accuracy"]) == pytest.approx(float(share), abs=1e-6)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 2, 3, 1, 2], "between 0 and 2, but they go from 0 to 3"),
        ([0, 1, -1, 2, 1, 2], "between 0 and 2, but they go from -1 to 2"),
        ([1, 1, 1, 1, 1, 1], "All 6 training labels are 1"),
    ],
)
def test_labels_that_cannot_be_used(labels, message):
    draw = {"train": (RANDOM.normal(size=(6, 2)), np.array(labels))}
    problem = Classification(lambda _: draw, 3, Network(4))
    with pytest.raises(DataError, match=message):
        bilevel.solve(problem, bilevel.uniform(1e-3), steps=1, batch_size=3, seeds=1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: digits(ridge=-1e-3), "`ridge` must be at least 0"),
        (lambda: digits(test=0.0), "fractions"),
        (lambda: digits(split=-1), r"`split`, .* or None, must be"),
        (lambda: digits(split=1.5), r"`split`, .* or None, must be"),
        (lambda: digits(standardise="no"), "`standardise` must be True or False"),
        (lambda: digits(width=(64, 0)), "`width` must be a positive integer"),
        (lambda: digits(width=()), "`width` is empty"),
        (lambda: digits(width=(64, 32), depth=3), "names 2 layers and `depth` 3"),
        (lambda: mnist(train=-1), "`train` must be an integer of at least 0"),
        (lambda: fashion_mnist(validation=0.2), "`validation` must be an integer of at least 0"),
        (lambda: cifar10(test=1), "`test` is a number of rows"),
        (lambda: mnist(download="no"), "`download` must be True or False"),
    ],
)
def test_options_that_cannot_work(make, message):
    with pytest.raises(ArgumentError, match=message):
        make()


def test_unknown_names_show_the_nearest():
    with pytest.raises(UnknownNameError, match="Did you mean 'fashion-mnist'"):
        registry.load_problem("fashion_mnist")
    with pytest.raises(UnknownNameError, match="Did you mean 'standardise'"):
        registry.load_problem("digits", standardize=True)


PIXELS = RANDOM.integers(0, 256, (30, 12), dtype=np.uint8)
LABELS = np.arange(30, dtype=np.uint8) % 10


@pytest.fixture
def images(monkeypatch):
    """30 training and 8 test images in three colours of two by two pixels."""
    asked = []

    def load(source, data_dir, *, download):
        asked.append((source.name, data_dir, download))
        return Images((PIXELS, LABELS), (PIXELS[:8] // 2, LABELS[:8]), places.SHARED)

    monkeypatch.setattr(image_classification, "load", load)
    return asked


OPTIONS = {"width": 4, "depth": 1, "activation": "relu", "ridge": 1e-3, "weight_decay": 0.0}
OPTIONS |= {"train": 20, "validation": 5, "test": 6, "standardise": False}
OPTIONS |= {"data_dir": "", "download": False}


def test_image_groups_and_their_scale(images):
    problem = image_problem(CIFAR10, OPTIONS)
    groups = problem.data()
    assert sizes(problem) == {"train": 20, "validation": 5, "test": 6}
    assert groups["train"].inputs.dtype == torch.float32  # a copy in double would be twice as large
    pixels = PIXELS.reshape(30, 3, 4) / 255
    for channel, (mean, deviation) in enumerate(zip(CIFAR10.mean, CIFAR10.deviation, strict=True)):
        expected = ((pixels[:, channel] - mean) / deviation).astype(np.float32)
        part = slice(4 * channel, 4 * channel + 4)
        np.testing.assert_allclose(groups["train"].inputs[:, part], expected[:20], atol=1e-6)
        np.testing.assert_allclose(groups["validation"].inputs[:, part], expected[25:], atol=1e-6)
    np.testing.assert_array_equal(groups["validation"].targets, LABELS[25:])
    everything = image_problem(FASHION_MNIST, OPTIONS | {"train": 0, "validation": 0, "test": 0})
    assert sizes(everything) == {"train": 30, "test": 8}
    flat = image_problem(FASHION_MNIST, OPTIONS | {"standardise": True}).data()["train"].inputs
    torch.testing.assert_close(flat.mean(0), torch.zeros(12), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": 26}, "has 30 training images: `train` 26 and `validation` 5 do not fit"),
        ({"train": 0, "validation": 29}, "do not fit"),
        ({"test": 9}, "has 8 test images, fewer than `test` 9"),
    ],
)
def test_more_rows_than_there_are(images, options, message):
    with pytest.raises(ArgumentError, match=message):
        image_problem(FASHION_MNIST, OPTIONS | options)


@pytest.mark.usefixtures("untimed", "undrawn")
def test_the_command_takes_a_folder_of_data(images, tmp_path, capsys):
    command = ["compare", "mnist", "--data-dir", str(tmp_path), "--seeds", "2", "--steps", "3"]
    sizes = ["--set", "width=5,4", "train=20", "validation=4", "--batch-size", "4"]
    pair = ["--strategies", "uniform slow", "two-timescale"]
    assert main([*command, *sizes, *pair, "--output", str(tmp_path / "new")]) == 0
    assert images == [("mnist", str(tmp_path), True)]
    report = (tmp_path / "new/report.html").read_text()
    assert "the first 20 of 30 training images" in report
    assert "test cross-entropy" in report
    assert main(["compare", "diabetes", "--data-dir", str(tmp_path)]) == 2
    assert re.search(r"no option of diabetes 'data_dir'", capsys.readouterr().err)
    assert main([*command, "--set", "data_dir=elsewhere"]) == 2
    assert "leave out one" in capsys.readouterr().err


def test_doctor_downloads_nothing(images, monkeypatch, capsys):
    monkeypatch.setattr(sys.modules[__name__], "PIXELS", np.tile(PIXELS, (400, 1)))
    assert main(["doctor"]) == 0
    assert {name for name, _, download in images if not download} == {
        "mnist",
        "fashion-mnist",
        "cifar10",
    }
    assert all(not download for *_, download in images)


@pytest.mark.skipif(not DEBIAN.is_dir(), reason=NO_FILES)
def test_real_fashion_mnist(monkeypatch, tmp_path):
    """Debian's copy: hashes, counts, and what is known about its pixels and classes."""
    monkeypatch.delenv("BILEVEL_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    problem = fashion_mnist(train=0, validation=10_000, download=False)
    groups = problem.data()
    assert sizes(problem) == {"train": 50_000, "validation": 10_000, "test": 10_000}
    assert groups["train"].inputs.shape == (50_000, 784)
    assert torch.bincount(groups["test"].targets).tolist() == [1000] * 10
    together = torch.cat([groups["train"].targets, groups["validation"].targets])
    assert torch.bincount(together).tolist() == [6000] * 10
    assert together[:5].tolist() == [9, 0, 0, 3, 0]  # an ankle boot comes first
    everything = torch.cat([groups["train"].inputs, groups["validation"].inputs]).double()
    assert float(everything.mean()) == pytest.approx(0, abs=1e-3)  # .2860 and .3530 are published
    assert float(everything.std()) == pytest.approx(1, abs=1e-3)


def test_scaled_images_of_one_channel():
    found = scaled(np.array([[0, 255, 73]], dtype=np.uint8), FASHION_MNIST)
    expected = [-0.286 / 0.353, 0.714 / 0.353, (73 / 255 - 0.286) / 0.353]
    np.testing.assert_allclose(found, [expected], rtol=1e-5)
