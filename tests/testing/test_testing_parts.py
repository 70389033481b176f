"""The checks fail on parts that are wrong in known ways, with a message that names the mistake."""

import dataclasses

import pytest
import torch

import bilevel
from bilevel import Status, testing, trees
from bilevel.errors import BilevelError, CheckError
from bilevel.heads import HeadSolution
from bilevel.linear import LinearSolution


def failure(check, *arguments, **options):
    """The message of a check that must fail."""
    with pytest.raises(CheckError) as caught:
        check(*arguments, **options)
    assert isinstance(caught.value, AssertionError)
    assert isinstance(caught.value, BilevelError)
    return str(caught.value)


class Linear(bilevel.AbstractLinearSolver):
    """Right solutions; subclasses spoil them."""

    cost = bilevel.Cost()

    def solve(self, operator, right, start=None):
        return self.spoil(operator, right, bilevel.CG().solve(operator, right, start))


class PreviousIterate(Linear):
    """CG that returns the iterate before the last one, with the residual of the last one."""

    def solve(self, operator, right, start=None):
        product, b = operator.on_vectors(right), trees.flatten(right)
        v = before = torch.zeros_like(b)
        r = p = b
        for _ in range(20 * b.shape[1]):
            if bool((r.norm(dim=1) <= 1e-10 * b.norm(dim=1)).all()):
                break
            image, square = product(p), (r * r).sum(1, keepdim=True)
            rate = torch.nan_to_num(square / (p * image).sum(1, keepdim=True))
            before, v, r = v, v + rate * p, r - rate * image
            p = r + torch.nan_to_num((r * r).sum(1, keepdim=True) / square) * p
        done = torch.full((len(b),), int(Status.CONVERGED))
        return LinearSolution(trees.unflatten(before, right), r.norm(dim=1), done)


class Spoiled(Linear):
    def __init__(self, spoil):
        self.spoil = spoil


def shared_norm(operator, right, solution):
    size = trees.flatten(right).norm()  # over all runs
    value = trees.tree_map(lambda v: v + 1e-7 * size, solution.value)
    residual = trees.norm(trees.tree_map(torch.sub, operator.product(value), right))
    return solution._replace(value=value, residual=residual)


def never_in_doubt(operator, right, solution):
    return solution._replace(status=torch.full_like(solution.status, int(Status.CONVERGED)))


def in_place(operator, right, solution):
    trees.leaves(right)[0].mul_(2)
    return solution


def with_graph(operator, right, solution):
    return solution._replace(
        value=trees.tree_map(lambda v: v.clone().requires_grad_(), solution.value)
    )


LINEAR = {
    "previous iterate": (PreviousIterate(), "Return the last iterate"),
    "runs share a norm": (Spoiled(shared_norm), "among others|positive definite"),
    "always converged": (Spoiled(never_in_doubt), "is not finite|that is singular|expected DIV"),
    "changes b": (Spoiled(in_place), "`right` of .* changed in place"),
    "keeps a graph": (Spoiled(with_graph), "carries a graph"),
    "wrong status": (Spoiled(lambda o, r, s: s._replace(status=s.status[:1])), "`status` of"),
    "wrong shape": (Spoiled(lambda o, r, s: s._replace(value=trees.flatten(s.value))), "structure"),
    "too few steps": (bilevel.CG(max_steps=3), "give the solver more steps"),
}


@pytest.mark.parametrize("wrong", LINEAR)
def test_wrong_linear_solvers_fail(wrong):
    solver, message = LINEAR[wrong]
    with pytest.raises(CheckError, match=message):
        testing.check_linear_solver(solver)


@dataclasses.dataclass(frozen=True, eq=False)
class WrongHead(bilevel.AbstractHeadSolver):
    """Right heads, then spoiled."""

    kind: str
    cost = bilevel.Cost()

    def init(self, oracles, body, head, rows):
        return bilevel.ClosedForm().init(oracles, body, head, rows)

    def solve(self, oracles, body, head, rows, state, k):
        right = bilevel.ClosedForm().solve(oracles, body, head, rows, state, k)
        if self.kind == "converged elsewhere":
            moved = trees.tree_map(lambda x: x + 0.1, right.head)
            residual = trees.norm(oracles.head_gradient(body, moved, rows))
            return right._replace(head=moved, residual=residual)
        if self.kind == "residual of another head":
            return right._replace(head=trees.tree_map(lambda x: x + 0.1, right.head))
        if self.kind == "runs are averaged":
            mean = trees.tree_map(lambda x: x + 1e-6 * x.mean(0, keepdim=True), right.head)
            residual = trees.norm(oracles.head_gradient(body, mean, rows))
            done = torch.full_like(right.status, int(Status.COMPLETED))
            return right._replace(head=mean, residual=residual, status=done)
        if self.kind == "uphill":
            away = trees.tree_map(lambda x, y: 3 * x - 2 * y, head, right.head)
            residual = trees.norm(oracles.head_gradient(body, away, rows))
            done = torch.full_like(right.status, int(Status.COMPLETED))
            return HeadSolution(away, residual, done, state)
        if self.kind == "state without runs":
            return right._replace(state=torch.zeros(7))
        trees.leaves(head)[0].zero_()  # in place
        return right


HEADS = {
    "converged elsewhere": "says CONVERGED in run 0, but",
    "residual of another head": "Compute it from that head",
    "runs are averaged": "for a run alone than among others",
    "uphill": "makes the head of run 0 worse",
    "state without runs": "run axis first",
    "in place": "`head` of .* changed in place",
}


@pytest.mark.parametrize("kind", HEADS)
def test_wrong_head_solvers_fail(kind):
    with pytest.raises(CheckError, match=HEADS[kind]):
        testing.check_head_solver(WrongHead(kind))


def test_a_solver_that_refuses_everything_fails():
    class Choosy(WrongHead):
        def check(self, problem):
            raise bilevel.errors.IncompatibleError("Not this one.")

    assert "refuses every problem" in failure(testing.check_head_solver, Choosy(""))
    beyond = bilevel.FastSGD(1.5, 30)  # 2 / L of the first head is 1
    assert "makes the head of run 0 worse" in failure(testing.check_head_solver, beyond)


@dataclasses.dataclass(frozen=True, eq=False)
class WrongGradient(bilevel.AbstractHypergradient):
    """Right gradients, then spoiled."""

    kind: str
    cost = bilevel.Cost()

    def check(self, problem, solver):
        """Fits all."""

    def gradient(self, oracles, body, answer, rows, state):
        right = bilevel.Implicit().gradient(oracles, body, answer, rows, None)
        direct = oracles.direct_gradient(body, answer.head, rows)
        if self.kind == "no implicit term":
            return right._replace(body=direct)
        if self.kind == "wrong sign":
            return right._replace(body=trees.tree_map(lambda d, g: 2 * d - g, direct, right.body))
        if self.kind == "runs are averaged":
            mixed = trees.tree_map(lambda g: g + 1e-6 * (g.sum(0, keepdim=True) - g), right.body)
            return right._replace(body=mixed)
        trees.leaves(body)[0].add_(1.0)  # in place
        return right


GRADIENTS = {
    "no implicit term": "equals d_w F alone: the implicit term",
    "wrong sign": "the sign and the transpose",
    "runs are averaged": "differs from central differences|alone than among",
    "in place": "`body` of .* changed in place",
}


@pytest.mark.parametrize("kind", GRADIENTS)
def test_wrong_hypergradients_fail(kind):
    with pytest.raises(CheckError, match=GRADIENTS[kind]):
        testing.check_hypergradient(WrongGradient(kind))


@pytest.mark.slow  # heads of many steps, solved anew for every difference
def test_truncated_hypergradients_need_their_tolerance():
    method = bilevel.Implicit(bilevel.Neumann(4))
    assert "differs from central differences" in failure(testing.check_hypergradient, method)
    assert testing.check_hypergradient(method, tolerance=1.0)


@dataclasses.dataclass(frozen=True, eq=False)
class Descent(bilevel.AbstractOptimizer):
    """Plain steps; a function spoils them."""

    step: object

    def init(self, parameters):
        return ()

    def update(self, gradient, state, parameters, lr):
        def one(x, g):
            return self.step(x, g, trees.per_run(lr, x))

        return trees.tree_map(one, parameters, gradient), state


class Stateful(Descent):
    def init(self, parameters):
        return torch.zeros(2)


OPTIMIZERS = {
    "runs share a norm": (Descent(lambda x, g, lr: x - lr * g / g.norm()), "among others"),
    "changes parameters": (Descent(lambda x, g, lr: x.sub_(lr * g)), "`parameters` of"),
    "changes gradients": (Descent(lambda x, g, lr: x - g.mul_(lr)), "`gradient` of"),
    "climbs": (Descent(lambda x, g, lr: x + lr * g), "must be negative"),
    "other type": (Descent(lambda x, g, lr: (x - lr * g).float()), "type of what came in"),
    "loses an axis": (Descent(lambda x, g, lr: (x - lr * g)[:1]), "structure and the shapes"),
    "state without runs": (Stateful(lambda x, g, lr: x - lr * g), "run axis first"),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_wrong_optimizers_fail(kind):
    optimizer, message = OPTIMIZERS[kind]
    with pytest.raises(CheckError, match=message):
        testing.check_optimizer(optimizer)
