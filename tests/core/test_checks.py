"""What is said of arguments that are something else."""

import sys

import numpy as np
import pytest
import torch

import bilevel
from bilevel.errors import ArgumentError, UnknownNameError, unknown_name
from problems.toy import ScalarProduct

PARAMETER = torch.zeros(1, requires_grad=True)
THEIRS = torch.optim.Adam([PARAMETER])


@pytest.mark.parametrize(
    ("make", "remedy"),
    [
        (lambda: bilevel.uniform(0.1, bilevel.Adam), "Call it: Adam()."),
        (lambda: bilevel.uniform(0.1, bilevel.Clipped), "Call it: Clipped(...)."),
        (lambda: bilevel.uniform(0.1, "adam"), "Did you mean bilevel.Adam()?"),
        (lambda: bilevel.uniform(0.1, "rms prop"), "Did you mean bilevel.RMSProp()?"),
        (lambda: bilevel.uniform(0.1, THEIRS), "Did you mean bilevel.Adam()?"),
        (lambda: bilevel.uniform(0.1, torch.optim.RMSprop), "Did you mean bilevel.RMSProp()?"),
        (lambda: bilevel.uniform(0.1, torch.optim.LBFGS), "There are bilevel.Adam(), bil"),
        (lambda: bilevel.BestResponse(0.1, "newton"), "Did you mean bilevel.Newton()?"),
        (lambda: bilevel.BestResponse(0.1, bilevel.Newton), "Call it: Newton()."),
        (
            lambda: bilevel.BestResponse(0.1, gradient="implicit"),
            "Did you mean bilevel.Implicit()?",
        ),
        (lambda: bilevel.Implicit("cg"), "Did you mean bilevel.CG()?"),
        (lambda: bilevel.Implicit(bilevel.Neumann), "Call it: Neumann(...)."),
        (lambda: bilevel.ClosedForm("full data"), "Did you mean bilevel.FullData()?"),
        (lambda: bilevel.uniform("constant"), "Did you mean bilevel.Constant(...)?"),
        (lambda: bilevel.uniform(bilevel.Polynomial), "Call it: Polynomial(...)."),
        (
            lambda: bilevel.uniform(torch.optim.lr_scheduler.PolynomialLR(THEIRS)),
            "Did you mean bilevel.Polynomial(...)?",
        ),
        (
            lambda: bilevel.solve(ScalarProduct(), "two-timescale"),
            "Did you mean bilevel.TwoTimescale(...)?",
        ),
        (
            lambda: bilevel.compare(ScalarProduct(), {"one": bilevel.TwoTimescale}),
            "Call it: TwoTimescale(...).",
        ),
        (lambda: bilevel.solve(ScalarProduct, bilevel.uniform(0.1)), "Call it: ScalarProduct()."),
    ],
)
def test_what_was_meant_is_named(make, remedy):
    with pytest.raises(ArgumentError) as caught:
        make()
    assert remedy in str(caught.value)


@pytest.mark.parametrize(
    ("loss", "ours"),
    [
        (torch.nn.MSELoss(), "bilevel.SquaredError()"),
        (torch.nn.BCEWithLogitsLoss, "bilevel.LogisticLoss()"),
        (torch.nn.CrossEntropyLoss(), "bilevel.SoftmaxLoss()"),
        (torch.nn.SmoothL1Loss(), "bilevel.HuberLoss()"),
        ("squared error", "bilevel.SquaredError()"),
        (bilevel.SoftmaxLoss, "Call it: SoftmaxLoss()"),
    ],
)
def test_a_loss_of_torch_names_ours(loss, ours):
    class Measured(bilevel.LinearHeadProblem):
        criterion = loss

        def data(self, seed=None):
            return {"train": bilevel.Batch(torch.eye(3), torch.ones(3))}

        def init_body(self, generator):
            return torch.ones(())

        def init_head(self, generator):
            return torch.zeros(3)

        def features(self, body, inputs):
            return inputs * body

    with pytest.raises(ArgumentError, match="criterion") as caught:
        bilevel.best_response(Measured(), torch.tensor(1.0))
    assert ours in str(caught.value)


@pytest.mark.parametrize(
    ("value", "named"), [("ball", "bilevel.Ball(...)"), (bilevel.Simplex, "Simplex()")]
)
def test_a_set_is_named(value, named):
    problem = ScalarProduct()
    problem.head_set = value
    with pytest.raises(ArgumentError, match="head_set") as caught:
        bilevel.solve(problem, bilevel.uniform(0.1), steps=1, seeds=1)
    assert named in str(caught.value)


def test_a_name_that_is_no_text_is_unknown():
    assert isinstance(unknown_name("thing", 3, ["a"]), UnknownNameError)
    assert "Known: a, 'b, c'." in str(unknown_name("thing", 3, ["b, c", "a"]))
    with pytest.raises(UnknownNameError, match=r"no metric \['x'\]"):
        bilevel.compare(ScalarProduct(), {"one": bilevel.uniform(0.1)}, headline=["x"])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"steps": 10**30}, "`steps` must be below 1,000,000,000"),
        ({"steps": 10**8, "every": 1}, "`every` must be at least 101"),
        ({"seeds": 10**9}, "`seeds` must be at most 1,000,000"),
        ({"seeds": "3"}, "`seeds` must be"),
        ({"callback": 0}, "`callback` must be a function, callback(step, values)"),
        ({"callback": lambda step: None}, "cannot be called with 2 arguments"),
        ({"device": True}, "`device` must be"),
        ({"device": "cuda:99"}, "`device` 'cuda:99' cannot be used here"),
        ({"device": "meta"}, "`device` 'meta' cannot be used here"),
        ({"device": "gpu"}, "`device` 'gpu' cannot be used here"),
        ({"compile": "no"}, "`compile` must be True or False"),
        ({"throw": None}, "`throw` must be True or False"),
        ({"tolerance": torch.ones(2)}, "`tolerance` must be a single number"),
        ({"tolerance": "small"}, "`tolerance` must be a number"),
        ({"dtype": "float64"}, "`dtype` must be torch.float32 or torch.float64"),
    ],
)
def test_an_argument_of_solve_is_refused_by_name(given, words):
    with pytest.raises(ArgumentError) as caught:
        bilevel.solve(ScalarProduct(), bilevel.uniform(0.1), **{"steps": 2, "seeds": 2, **given})
    assert words in str(caught.value)


def test_values_are_shown_on_one_short_line():
    with pytest.raises(ArgumentError) as caught:
        bilevel.uniform("x" * 10_000)
    assert len(str(caught.value)) < 500
    with pytest.raises(ArgumentError, match="must be positive and finite"):
        bilevel.uniform(10**5000)


def test_numbers_and_flags_of_numpy_are_taken():
    assert repr(bilevel.uniform(np.array(0.5))) == repr(bilevel.uniform(0.5))
    assert bilevel.Unrolled(np.int64(3)).steps == 3
    problem, strategy = ScalarProduct(), bilevel.uniform(0.1)
    few = {"seeds": 1, "throw": np.bool_(True), "max_runs_at_once": sys.maxsize}
    found = bilevel.solve(problem, strategy, steps=np.int64(2), every=sys.maxsize, **few)
    assert found.steps.tolist() == [0, 2]


def test_a_run_may_be_an_argmin():
    def make():
        return torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1))

    module, network = make(), bilevel.split(make, "2")
    random = torch.Generator().manual_seed(0)
    body, head = network.init_body(random), network.init_head(random)
    many = {name: torch.stack([leaf, 2 * leaf]) for name, leaf in body.items()}
    bilevel.assign(module, many, torch.stack([head, head]), run=torch.tensor([2.0, 1.0]).argmin())
    for name, leaf in body.items():
        torch.testing.assert_close(dict(module.named_parameters())[name].data, 2 * leaf)
