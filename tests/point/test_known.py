"""What a point knows from earlier calls: never a number of other data, and nothing of the dead."""

import copy
import weakref

import numpy as np
import pytest
import torch

import bilevel
from bilevel.data import known
from bilevel.errors import BilevelError, DataError, ProblemError, ShapeError

ROWS, FEATURES = 24, 5
W = torch.linspace(-1.0, 0.5, FEATURES, dtype=torch.float64)


class Penalties(bilevel.LinearHeadProblem):
    """Log-penalties; the rows are NumPy's too, features and penalty have a number of their own."""

    body_free_features = True
    redrawn = False

    def __init__(self, seed=0, fit_bias=False):
        self.fit_bias, self.scale, self.least = fit_bias, 1.0, 0.0
        self.rows(seed)

    def rows(self, seed):
        source = np.random.default_rng(seed)
        self.arrays = [source.standard_normal((ROWS, FEATURES)) for _ in range(2)]
        self.aims = [source.standard_normal(ROWS) for _ in range(2)]
        pairs = [map(torch.from_numpy, pair) for pair in zip(self.arrays, self.aims, strict=True)]
        self.train, self.validation = (bilevel.Batch(*pair) for pair in pairs)

    def data(self, seed=None):
        if self.redrawn:
            self.rows(int(torch.randint(10**6, ())))
        return {"train": self.train, "validation": self.validation}

    def init_body(self, generator):
        return torch.zeros(FEATURES, dtype=torch.float64)

    def init_head(self, generator):
        return torch.zeros(FEATURES + self.fit_bias, dtype=torch.float64)

    def features(self, inputs):
        return inputs if self.scale == 1.0 else self.scale * inputs

    def penalty(self, body):
        return body.exp() + self.least

    def body_objective(self, body, head, batch):
        rows = batch["validation"]
        return 0.5 * (self.predict(body, head, rows.inputs) - rows.targets).square().mean()


def found(problem, body=W, **options):
    """All numbers of a gradient."""
    made = bilevel.hypergradient(problem, body, **options)
    head = made.response
    return (
        made.body,
        head.head,
        *map(torch.tensor, (made.value, made.bound, head.residual, head.bound, head.mu)),
    )


def forgotten(problem, body=W, **options):
    """Those of a problem that nothing is known of."""
    return found(copy.copy(problem), body, **options)


def same(problem, body=W, **options):
    """Whether what is known changes no number."""
    pairs = zip(found(problem, body, **options), forgotten(problem, body, **options), strict=True)
    return all(torch.equal(a, b) or bool(a.isnan() & b.isnan()) for a, b in pairs)


def by_version(problem):
    problem.train.inputs[3, 1] += 1e-8


def by_numpy(problem):
    problem.arrays[0][3, 1] += 1e-8


def by_data(problem):
    problem.train.inputs.data[3, 1] += 1e-8


def exchanged(problem):
    inputs = problem.arrays[0]
    inputs[[0, 1]] = inputs[[1, 0]]


def turned(problem):
    problem.arrays[0].sort(0)


def aims(problem):
    problem.aims[0][2] += 1e-8


def validation(problem):
    problem.arrays[1][2] *= 2


def other_rows(problem):
    problem.rows(7)


def other_tensors(problem):
    problem.train = bilevel.Batch(problem.train.inputs * 2, problem.train.targets)


def scaled(problem):
    problem.scale = 1.5


def raised(problem):
    problem.least = 0.25


def free(problem):
    problem.fit_bias = True


CHANGES = [by_version, by_numpy, by_data, exchanged, turned, aims, validation, other_rows,
           other_tensors, scaled, raised, free]  # fmt: skip


@pytest.mark.parametrize("bound", [True, False])
@pytest.mark.parametrize("fit_bias", [False, True])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_what_changes_between_calls_is_seen(change, fit_bias, bound):
    problem = Penalties(fit_bias=fit_bias)
    before = found(problem, bound=bound)
    assert same(problem, bound=bound)
    assert same(problem, 2 * W, bound=bound)
    change(problem)
    assert same(problem, bound=bound)
    assert not torch.equal(found(problem, bound=bound)[0], before[0]) or change is free


def test_problems_of_one_class_are_told_apart():
    problems = [Penalties(seed) for seed in range(2)]
    for _ in range(2):
        assert all(same(problem) for problem in problems)
    twin = copy.copy(problems[0])
    twin.scale = 3.0
    assert same(problems[0])
    assert same(twin)


def test_types_and_batches_are_told_apart():
    problem = Penalties()
    others = Penalties(3).data()
    for _ in range(2):
        assert same(problem)
        assert same(problem, W.float())
        assert same(problem, batch=others)
    others["train"].inputs[0] *= 2
    assert same(problem, batch=others)


def test_rows_that_are_drawn_anew_are_seen():
    problem = Penalties()
    problem.redrawn = True
    torch.manual_seed(0)
    first, second = (found(problem) for _ in range(2))
    assert not torch.equal(first[0], second[0])
    torch.manual_seed(0)
    for one in (first, second):
        assert torch.equal(forgotten(problem)[0], one[0])


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("bound", [True, False])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_turn_bad_are_refused(bad, bound, place):
    problem = Penalties()
    found(problem)
    problem.arrays[place][1, 1] = bad  # nobody counts this change
    with pytest.raises(BilevelError, match=r"nan|inf|finite"):
        found(problem, bound=bound)
    problem.data()[("train", "validation")[place]].targets[0] = bad
    with pytest.raises(DataError, match="NaN or infinite"):
        found(problem, bound=bound)


def negative(problem):
    problem.least = -100.0
    return ProblemError, "`penalty` of .* gives -9"


def of_other_shape(problem):
    problem.features = lambda inputs: inputs[:, :-1]
    return ShapeError, "The head has shape"


def no_number(problem):
    problem.body_objective = lambda body, head, batch: head.square()
    return ShapeError, "must return a 0-dim tensor"


def beyond(problem):
    problem.body_objective = lambda body, head, batch: head.sum() + torch.inf
    return ProblemError, "`body_objective` of .* is inf"


def not_mapped(problem):
    problem.body_objective = lambda body, head, batch: head.sum() * float(body.sum().item())
    return ProblemError, "cannot be differentiated under `torch.func.vmap`"


@pytest.mark.parametrize("change", [negative, of_other_shape, no_number, beyond, not_mapped])
@pytest.mark.parametrize("earlier", [True, False])
def test_a_contract_that_is_broken_later_is_refused_as_at_once(change, earlier):
    problem = Penalties()
    if earlier:
        found(problem)
    error, message = change(problem)
    with pytest.raises(error, match=message):
        found(problem)


class Far(Penalties):
    """F is infinite at large bodies, and the penalty negative at very large ones."""

    def penalty(self, body):
        return body.exp().where(body < 5, -1.0)

    def body_objective(self, body, head, batch):
        return super().body_objective(body, head, batch) / (body < 3).all()


def test_numbers_that_depend_on_the_body_are_looked_at_in_each_call():
    problem = Far()
    found(problem)
    with pytest.raises(ProblemError, match="`body_objective` of Far is inf"):
        found(problem, W + 4)
    with pytest.raises(ProblemError, match="`penalty` of Far gives -1"):
        found(problem, W + 6)
    with pytest.raises(ShapeError, match="`body` has the leaves"):
        found(problem, W[:-1])
    assert same(problem)


def test_what_is_known_dies_with_its_problem():
    before = len(known._KNOWN)
    problem = Penalties()
    found(problem)
    gram = known.known_of(problem)
    watched = [weakref.ref(x) for x in (problem, gram, problem.train.inputs)]
    del gram
    assert len(known._KNOWN) == before + 1
    del problem
    assert [x() for x in watched] == [None] * 3
    assert len(known._KNOWN) == before


def test_rows_that_were_replaced_are_not_held():
    problem = Penalties()
    found(problem)
    watched = weakref.ref(problem.train.inputs)
    problem.rows(1)
    assert watched() is None


def test_a_second_call_makes_what_depends_on_the_body(monkeypatch):
    """One factor; no spectrum, no Gram matrix, no look at the data or at the contract."""
    from bilevel.derivatives import over_heads
    from bilevel.linear.centre import Joined
    from bilevel.point import examined

    problem, made = Penalties(), []
    found(problem)

    def counted(owner, name):
        function = getattr(owner, name)

        def call(*arguments, **options):
            made.append(name)
            return function(*arguments, **options)

        monkeypatch.setattr(owner, name, call)

    counted(Joined, "products")
    counted(torch.linalg, "cholesky_ex")
    counted(torch.linalg, "eigvalsh")
    counted(examined, "check_contract")
    counted(bilevel.data.training_data, "check_finite")
    counted(over_heads, "vmap")
    counted(Penalties, "body_objective")
    counted(Penalties, "penalty")
    found(problem, 2 * W)
    counts = {name: made.count(name) for name in set(made)}
    assert counts == {"cholesky_ex": 1, "body_objective": 3, "penalty": 3}


@pytest.mark.parametrize(
    "thing",
    [torch.eye(3).to_sparse(), [1.0] * 1000, [[[[[[[[1.0]]]]]]]], slice(1), torch.nn.Linear(1, 1)],
    ids=["sparse", "long", "deep", "slice", "module"],
)
def test_attributes_of_any_kind_do_no_harm(thing):
    problem = Penalties()
    problem.thing = thing
    assert all(same(problem) for _ in range(2))
    holds = isinstance(thing, torch.nn.Module)
    assert known.Mark(thing).holds(thing) == holds


def test_marks_tell_numbers_and_containers_apart():
    tensor = torch.ones(3)
    thing = {"a": (1, 2.0, tensor), "b": [None, "x", np.ones(2)]}
    mark = known.Mark(thing)
    assert mark.holds(thing)
    assert mark.holds({"a": (1, 2.0, tensor), "b": thing["b"]})
    others = [(1, 2.5, tensor), (1, 2.0, tensor.clone()), (1, 2.0), [1, 2.0, tensor], None]
    assert not any(mark.holds({**thing, "a": other}) for other in others)
    assert not mark.holds({"b": thing["b"], "a": thing["a"]})
    tensor.add_(1)
    assert not mark.holds(thing)


def test_little_is_known_of_one_problem():
    problem = Penalties()
    for rows in range(6, 24):
        groups = {name: bilevel.Batch(*(x[:rows] for x in group))
                  for name, group in problem.data().items()}  # fmt: skip
        found(problem, batch=groups)
    assert len(known.known_of(problem)._made) <= known.MOST


def test_what_is_returned_may_be_changed():
    problem = Penalties()
    before = forgotten(problem)
    for _ in range(2):
        made = bilevel.hypergradient(problem, W)
        for tensor in (made.body, made.response.head):
            tensor.fill_(9.0)
    assert torch.equal(found(problem)[0], before[0])
