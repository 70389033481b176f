"""Numbers as other libraries hand them over: some can be taken, some are refused by name."""

import warnings

import numpy as np
import scipy.sparse
import torch


class Subclass(torch.Tensor):
    """A tensor under another name."""


class Awkward:
    """An object that cannot say what its array is."""

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("there is none")


def _masked(x):
    return np.ma.masked_array(x, mask=np.arange(x.size).reshape(x.shape) % 7 == 0)


def _read_only(x):
    copy = x.copy()
    copy.flags.writeable = False
    return copy


def _unaligned(x):
    raw = np.zeros(x.nbytes + 1, np.uint8)
    view = raw[1:].view(x.dtype).reshape(x.shape)
    view[:] = x
    return view


def _sparse(layout):
    def make(x):
        tensor = torch.from_numpy(x)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # their support in torch is called a beta
            if layout == "coo" or x.ndim < 2:
                return tensor.to_sparse()
            blocks = [(1, 1)] if layout.startswith("bs") else []
            return getattr(tensor, f"to_sparse_{layout}")(*blocks)

    return make


def _quietly(make):
    def made(x):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # prototypes of torch
            return make(torch.from_numpy(x))

    return made


TAKEN = {
    "array": lambda x: x,
    "no value masked": np.ma.masked_array,
    "read-only": _read_only,
    "negative strides": lambda x: x[::-1].copy()[::-1],
    "other byte order": lambda x: x.astype(x.dtype.newbyteorder()),
    "column-major": np.asfortranarray,
    "unaligned": _unaligned,
    "long double": lambda x: x.astype(np.longdouble),
    "tensor": torch.from_numpy,
    "subclass": lambda x: torch.from_numpy(x).as_subclass(Subclass),
    "parameter": lambda x: torch.nn.Parameter(torch.from_numpy(x)),
    "with a graph": lambda x: torch.from_numpy(x).requires_grad_() * 1,
    "conjugate": lambda x: torch.complex(torch.from_numpy(x), -torch.from_numpy(x)).conj().imag,
}
"""What holds the same numbers, in float64 or longer."""
ROUNDED = {
    "half": lambda x: torch.from_numpy(x).half(),
    "bfloat16": lambda x: torch.from_numpy(x).bfloat16(),
    "half of NumPy": lambda x: x.astype(np.float16),
}
"""What holds them in fewer digits."""
REFUSED = {
    "masked": (_masked, "a masked array: drop the rows"),
    "masked tensor": (
        _quietly(lambda x: torch.masked.masked_tensor(x, x > 0)),
        "a MaskedTensor, which hides its numbers",
    ),
    **{
        layout: (_sparse(layout), r"a torch\.sparse_\w+ tensor: use `")
        for layout in ("coo", "csr", "csc", "bsr", "bsc")
    },
    "mkldnn": (
        lambda x: torch.from_numpy(x).float().to_mkldnn(),
        r"a torch\._mkldnn tensor",
    ),
    "nested": (
        _quietly(lambda x: torch.nested.nested_tensor([row.reshape(-1) for row in x])),
        "a nested tensor",
    ),
    "quantised": (
        _quietly(lambda x: torch.quantize_per_tensor(x.float(), 0.01, 0, torch.qint32)),
        r"a tensor of torch\.qint32",
    ),
    "meta": (lambda x: torch.from_numpy(x).to("meta"), "device meta, which holds no numbers"),
    "quarter": (
        lambda x: torch.from_numpy(x).to(torch.float8_e5m2),
        r"a tensor of torch\.float8_e5m2",
    ),
    "complex tensor": (lambda x: torch.from_numpy(x) + 0j, r"a tensor of torch\.complex128"),
    "complex": (lambda x: x + 0j, "an array of complex128"),
    "objects": (lambda x: x.astype(object), r"an array of object; `.astype\(float\)`"),
    "fields": (lambda x: x.astype([("a", "f8")]), r"an array of \[\('a'"),
    "dates": (lambda x: x.astype("M8[s]"), r"an array of datetime64\[s\]"),
    "text": (lambda x: x.astype(str), "an array of <U32; .* encode text"),
}
"""What holds no numbers, or hides them, and what is said of it."""
NO_ARRAYS = {
    "sequence of masked": lambda x: [_masked(row) for row in np.atleast_2d(x)],
    "sequence with None": lambda x: [None, *x[1:].tolist()],
    "scipy": scipy.sparse.coo_array,
    "sequence of graphs": lambda x: [torch.from_numpy(row).requires_grad_() for row in x[:, None]],
    "sequences of different lengths": lambda x: [[1.0], [1.0, 2.0]],
    "generator": iter,
    "None": lambda x: None,
    "text": lambda x: "3",
    "dictionary": lambda x: {"a": 1.0},
    "awkward": lambda x: Awkward(),
}
"""What is no array, and not made one of."""
