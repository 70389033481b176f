"""Values that nobody means, drawn for one argument at a time, and what may come of them."""

import contextlib
import fractions
import math
import pathlib
import resource
import signal
import traceback
import warnings

import numpy as np
import torch

import bilevel

SECONDS, BYTES = 10.0, 500 * 2**20
"""What a call with a foreign argument may take: of the processor, and of memory."""


def itself():
    """A list that holds itself."""
    made = []
    made.append(made)
    return made


FOREIGN = {
    "None": lambda: None,
    "True": lambda: True,
    "-1": lambda: -1,
    "0": lambda: 0,
    "-0.0": lambda: -0.0,
    "nan": lambda: math.nan,
    "infinity": lambda: 1e400,
    "1e-320": lambda: 1e-320,
    "1e200": lambda: 1e200,
    "10**30": lambda: 10**30,
    "10**400": lambda: 10**400,
    "10**9": lambda: 10**9,
    "complex": lambda: 1j,
    "fraction": lambda: fractions.Fraction(1, 3),
    "text": lambda: "3",
    "name": lambda: "adam",
    "empty text": lambda: "",
    "long text": lambda: "x" * 10_000,
    "text with NUL": lambda: "a\0b",
    "lone surrogate": lambda: "\udc80",
    "bytes": lambda: b"x",
    "empty list": lambda: [],
    "empty dict": lambda: {},
    "dict of numbers": lambda: {1: 2},
    "list of None": lambda: [None],
    "list of lists": lambda: [[1], [1, 2]],
    "list of texts": lambda: ["a", "b"],
    "list in itself": itself,
    "set": lambda: {1},
    "generator": lambda: (x for x in (1, 2)),
    "object": object,
    "class": lambda: bilevel.Adam,
    "function": lambda: lambda: None,
    "module": lambda: torch,
    "path": lambda: pathlib.Path("nowhere"),
    "exception": lambda: ValueError("x"),
    "float tensor": lambda: torch.tensor(2.5),
    "integer tensor": lambda: torch.tensor([1, 2]),
    "NaN tensor": lambda: torch.tensor([math.nan, 1.0]),
    "empty tensor": lambda: torch.zeros(0),
    "matrix": lambda: torch.ones(2, 3, dtype=torch.float64),
    "complex tensor": lambda: torch.ones(2, dtype=torch.complex64),
    "sparse tensor": lambda: torch.eye(2).to_sparse(),
    "meta tensor": lambda: torch.ones(2, device="meta"),
    "NumPy float": lambda: np.float64(0.5),
    "NumPy integer": lambda: np.int64(2),
    "NumPy bool": lambda: np.bool_(True),
    "array": lambda: np.array([1.0, 2.0]),
    "array of objects": lambda: np.array([None, "x"], dtype=object),
    "masked array": lambda: np.ma.array([1.0, 2.0], mask=[False, True]),
    "dtype": lambda: torch.float16,
    "torch optimiser": lambda: torch.optim.Adam,
    "torch layer": lambda: torch.nn.Linear(2, 1),
}


class Overrun(BaseException):
    """A call took more time than it may."""


@contextlib.contextmanager
def limited(seconds=SECONDS, size=BYTES):
    """The processor's time and the memory that a block may take; more raises within it."""

    def stop(*_):
        raise Overrun(f"more than {seconds:g} s")

    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGPROF, stop)
    resource.setrlimit(resource.RLIMIT_AS, (used + size, before[1]))
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, handler)
        resource.setrlimit(resource.RLIMIT_AS, before)


def outcome(call):
    """None: a result or an error of the library; else what came instead, and from where."""
    try:
        with warnings.catch_warnings(), limited():
            warnings.simplefilter("ignore")
            call()
    except bilevel.errors.BilevelError:
        return None
    except (Exception, Overrun) as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [f for f in frames if "/bilevel/" in f.filename or "/problems/" in f.filename]
        place = f"{'/'.join(own[-1].filename.split('/')[-3:])}:{own[-1].lineno}" if own else ""
        reason = str(error).partition("\n")[0][:100]
        return f"{type(error).__name__} at {place}: {reason}"
    return None
