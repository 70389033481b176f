"""Compare the numbers of two checkouts on this machine, bit for bit.

    python tests/project/same_bits.py OTHER_CHECKOUT

Trainings (bodies, heads and every record), heads and hypergradients with their bounds, and the
files of a comparison are computed with the code of this checkout and with that of the other one. No
numbers are stored: they depend on the processor and on the build of torch. Only public names are
used, so that any two versions can be compared.
"""

import dataclasses
import os
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

HERE = Path(__file__).resolve().parents[2]
SEEDS, STEPS, EVERY = 2, 20, 5


def problems() -> dict[str, Any]:
    """Small ones of every kind, by name."""
    from problems.analytic import analytic
    from problems.classification import digits
    from problems.mspbe.catalogue import neural_policy_evaluation, policy_evaluation
    from problems.regression import diabetes

    return {
        "diabetes": diabetes(width=8),
        "digits": digits(width=6),
        "A5": analytic("A5"),
        "A14": analytic("A14"),
        "B2": analytic("B2"),
        "policy": policy_evaluation(),
        "neural policy": neural_policy_evaluation(),
    }


def strategies() -> dict[str, Any]:
    """Every kind of strategy, solver and gradient, by name."""
    import bilevel as b

    sgd, inner = b.SGD(), b.FastSGD(0.05, 5)
    return {
        "alternating": b.TwoTimescale(1e-3, 1e-2),
        "simultaneous": b.TwoTimescale(1e-3, 1e-2, order="simultaneous"),
        "uniform": b.uniform(1e-3),
        "best response": b.BestResponse(1e-3),
        "batch": b.BestResponse(1e-3, b.ClosedForm(b.BatchData())),
        "running": b.BestResponse(1e-3, b.ClosedForm(b.RunningData())),
        "newton": b.BestResponse(1e-3, b.Newton()),
        "cvxpy": b.BestResponse(1e-3, b.Cvxpy()),
        "single loop": b.SingleLoop(1e-3, 1e-2, 1e-2),
        "unrolled": b.BestResponse(1e-3, inner, b.Unrolled(5), optimizer=sgd),
        "cg": b.BestResponse(1e-3, gradient=b.Implicit(b.CG())),
        "dense": b.BestResponse(1e-3, gradient=b.Implicit(b.Dense())),
        "neumann": b.BestResponse(1e-3, gradient=b.Implicit(b.Neumann(10))),
    }


def trained(problem: Any, strategy: Any, dtype: torch.dtype) -> dict[str, Any]:
    """The end of a training and its records."""
    import bilevel

    found = bilevel.solve(
        problem, strategy, steps=STEPS, seeds=SEEDS, every=EVERY, dtype=dtype, throw=False
    )
    status = [code.name for code in found.status]
    return {"body": found.body, "head": found.head, "status": status, **found.history}


def at_a_point(problem: Any, dtype: torch.dtype) -> dict[str, Any]:
    """The head and the hypergradient at an initial body, with their bounds."""
    import bilevel
    from bilevel import trees

    body = problem.init_body(torch.Generator().manual_seed(3))
    found = bilevel.hypergradient(problem, trees.cast(body, dtype))
    answer = found.response
    return {
        "gradient": found.body,
        "head": answer.head,
        "numbers": [found.value, found.bound, answer.residual, answer.bound, answer.mu],
        "words": [found.bound_kind, found.status.name, answer.bound_kind, answer.status.name],
    }


def files(folder: Path) -> dict[str, Any]:
    """What a comparison writes, but for its times and for what is drawn."""
    import bilevel
    from problems.regression import diabetes

    chosen = {name: strategies()[name] for name in ("alternating", "uniform", "best response")}
    found = bilevel.compare(diabetes(width=8), chosen, seeds=SEEDS, steps=STEPS, every=EVERY)
    found = dataclasses.replace(
        found, seconds_per_step=dict.fromkeys(chosen, 1e-3), environment={"python": "same"}
    )
    found.report(folder)
    page = (folder / "report.html").read_text()
    return {
        "history": (folder / "history.csv").read_text(),
        "settings": (folder / "config.json").read_text(),
        "page": re.sub(r"<svg.*?</svg>", "", page, flags=re.DOTALL),
    }


def cases() -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Everything that is computed, by name."""
    for name, problem in problems().items():
        for dtype in (torch.float32, torch.float64):
            kind = f"{name}, {str(dtype).removeprefix('torch.')}"
            yield f"{kind}: at a point", lambda p=problem, t=dtype: at_a_point(p, t)
            for label, strategy in strategies().items():
                yield f"{kind}: {label}", lambda p=problem, s=strategy, t=dtype: trained(p, s, t)


def leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """The tensors, numbers and words in nested containers, by place."""
    if isinstance(value, dict):
        for key in value:
            yield from leaves(value[key], f"{place}.{key}")
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield from leaves(item, f"{place}[{i}]")
    else:
        yield place, value


def same(one: Any, other: Any) -> bool:
    """Whether two leaves are equal bit for bit; all NaN count as one."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return (
            one.dtype == other.dtype
            and one.shape == other.shape
            and bool(((one == other) | (one.isnan() & other.isnan())).all())
        )
    return bool(one == other) or (one != one and other != other)


def apart(one: Any, other: Any) -> str:
    """How two leaves differ, in a line."""
    if isinstance(one, Tensor) and isinstance(other, Tensor) and one.shape == other.shape:
        return f"{float((one.double() - other.double()).abs().nan_to_num().max()):.1e} apart"
    return f"{str(one)[:60]!r} and {str(other)[:60]!r}"


def compute(path: Path) -> None:
    """Write everything to a file; what is refused is kept as the name of its error."""
    from bilevel.errors import BilevelError

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    found: dict[str, dict[str, Any]] = {}
    for name, call in cases():
        try:
            found[name] = dict(leaves(call()))
        except BilevelError as error:
            found[name] = {"refused": type(error).__name__}
    with tempfile.TemporaryDirectory() as folder:
        found["files"] = files(Path(folder, "report"))
    torch.save(found, path)


def computed_by(checkout: Path, path: Path) -> dict[str, dict[str, Any]]:
    """What the code of a checkout computes, in a process of its own."""
    command = [sys.executable, str(Path(__file__).resolve()), "--write", str(path)]
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=checkout, env=environment, check=True)
    found: dict[str, dict[str, Any]] = torch.load(path)
    return found


def differences(one: dict[str, dict[str, Any]], other: dict[str, dict[str, Any]]) -> list[str]:
    """The places in which two computations differ."""
    found = []
    for name in one.keys() | other.keys():
        a, b = one.get(name, {}), other.get(name, {})
        found += [
            f"{name} {place}: {apart(a.get(place), b.get(place))}"
            for place in a.keys() | b.keys()
            if place not in a or place not in b or not same(a[place], b[place])
        ]
    return sorted(found)


def main(arguments: list[str]) -> int:
    """0: no bit differs; 1: some do, they are printed; 2: wrong usage."""
    if len(arguments) == 2 and arguments[0] == "--write":
        compute(Path(arguments[1]))
        return 0
    if len(arguments) != 1 or not (Path(arguments[0]) / "bilevel").is_dir():
        print(__doc__, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        this = computed_by(HERE, Path(folder, "this"))
        other = computed_by(Path(arguments[0]).resolve(), Path(folder, "other"))
    found = differences(this, other)
    refused = sum("refused" in values for values in this.values())
    print(f"{len(this)} computations, {refused} of them refused; {len(found)} places differ")
    print("\n".join(found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
