"""The file of a model: what it holds, and what is checked when it is read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bilevel.errors import ResultsError
from bilevel.problem.network.hidden_layers import ACTIVATIONS, Network
from bilevel.storage.schema import Schema, check
from bilevel.storage.tensors import check_kinds, read_tensors, under
from bilevel.tables.columns import Column
from bilevel.tables.csv_file import is_number
from bilevel.tables.scaling import Scaling

FILE = "model.safetensors"
"""What the model in a results folder is called."""
KIND = "bilevel model 1"
"""What a file says it is, with the version of its format."""
REMEDY = "Put back a copy of the file, or train anew."
Label = bool | int | float | str
Plain = bool | int | float | str | None
SCHEMA: Schema = {
    "kind": str,
    "columns": [{"name": str, "categories": [str], "first": (str, None)}],
    "targets": [{"name": str, "categories": [str], "first": (str, None)}],
    "activation": (*ACTIVATIONS, None),
    "classes": ([(bool, int, float, str)], None),
    "about": {"*": (bool, int, float, str, None)},
}
SCALES = ("origin", "exponent", "mean", "deviation")
LARGEST_EXPONENT = 1100


def kept(fields: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the content of the file of a `Model` with these fields."""
    arrays: dict[str, Any] = {}
    for side in ("inputs", "outputs"):
        if (scaling := fields[side]) is not None:
            arrays |= {f"{side}.{key}": getattr(scaling, key) for key in SCALES}
    arrays |= {key: fields[key] for key in ("spans", "medians") if fields[key] is not None}
    tensors = {name: torch.tensor(np.asarray(array, np.float64)) for name, array in arrays.items()}
    tensors |= {f"body.{name}": leaf.double() for name, leaf in fields["body"].items()}
    tensors["head"] = fields["head"].double()
    network, classes = fields["network"], fields["classes"]
    content = {
        "kind": KIND,
        "columns": [_plain(column) for column in fields["columns"]],
        "targets": [_plain(column) for column in fields["targets"]],
        "activation": None if network is None else network.activation,
        "classes": None if classes is None else list(classes),
        "about": dict(fields["about"]),
    }
    return tensors, content


def read(path: Path) -> dict[str, Any]:
    """The fields of a `Model` in a file, or in the results folder that holds one.

    Raises:
        ResultsError: the file is missing, damaged, or holds something else.
    """
    if path.is_dir():
        if not (path / FILE).is_file():
            raise ResultsError(
                f"{path} holds no {FILE}: `bilevel compare --csv FILE --target COLUMN` writes one "
                "into its results where there are validation rows."
            )
        path /= FILE
    tensors, content = read_tensors(path)
    kind = content.get("kind")
    if kind != KIND and str(kind).startswith(KIND[:-1]):
        raise ResultsError(
            f"{path} holds a {kind}, and this version of bilevel reads {KIND!r} only. Use the "
            "version that wrote it, or train anew."
        )
    if kind != KIND:
        raise ResultsError(
            f"{path} holds no model of a table: `bilevel compare --csv` writes such."
        )
    check(content, SCHEMA, path, REMEDY)
    columns, targets = (_columns(content[key]) for key in ("columns", "targets"))
    names = [name for column in columns for name in column.inputs]
    classes = content["classes"]
    outputs = len(targets) if classes is None else len(classes) - (len(classes) == 2)
    network = _network(path, tensors, content["activation"], len(names))
    features = len(names) if network is None else network.outputs
    kinds: Schema = {f"inputs.{key}": f"float64 ({len(names)},)" for key in SCALES}
    kinds |= {"head": f"float64 ({features + 1}, {outputs})", "body.*": str}
    kinds |= {"spans?": f"float64 (3, {len(names)})", "medians?": f"float64 ({len(names)},)"}
    if classes is None:
        kinds |= {f"outputs.{key}": f"float64 ({outputs},)" for key in SCALES}
    check_kinds(path, tensors, kinds)
    _check_values(path, tensors, content)
    known = {key: tensors[key].numpy() if key in tensors else None for key in ("spans", "medians")}
    return {
        "columns": columns,
        "targets": targets,
        "inputs": _scaling(under("inputs.", tensors), names),
        "outputs": None
        if classes is not None
        else _scaling(under("outputs.", tensors), [target.name for target in targets]),
        **known,
        "network": network,
        "body": under("body.", tensors),
        "head": tensors["head"],
        "classes": None if classes is None else tuple(classes),
        "about": content["about"],
    }


def _scaling(tensors: Mapping[str, Tensor], names: list[str]) -> Scaling:
    arrays = {key: tensors[key].numpy() for key in SCALES}
    return Scaling(**arrays | {"exponent": arrays["exponent"].astype(np.int64)}, names=tuple(names))


def _plain(column: Column) -> dict[str, Any]:
    return {"name": column.name, "categories": list(column.categories), "first": column.first}


def _columns(found: list[dict[str, Any]]) -> tuple[Column, ...]:
    return tuple(Column(x["name"], tuple(x["categories"]), x["first"]) for x in found)


def _network(
    path: Path, tensors: Mapping[str, Tensor], activation: str | None, inputs: int
) -> Network | None:
    """The hidden layers whose weights a file holds."""
    body = under("body.", dict(tensors))
    layers = len(body) // 2
    kinds: Schema = {}
    widths: list[int] = []
    for layer in range(1, layers + 1):
        weight = body.get(f"weight{layer}", torch.empty(0, 0))
        widths.append(weight.shape[-1] if weight.ndim else 0)
        kinds[f"weight{layer}"] = f"float64 ({inputs}, {widths[-1]})"
        kinds[f"bias{layer}"] = f"float64 ({widths[-1]},)"
        inputs = widths[-1]
    fits = (layers > 0) == (activation is not None) and min(widths, default=1) > 0
    if not fits or body.keys() != kinds.keys():
        raise ResultsError(f"{path} is malformed: its layers do not fit its activation. {REMEDY}")
    check_kinds(path, body, kinds)
    return None if activation is None else Network(tuple(widths), activation=activation)


def _check_values(path: Path, tensors: Mapping[str, Tensor], content: Mapping[str, Any]) -> None:
    """Raise unless all numbers are such as a training leaves, and names are there once."""
    names = [column["name"] for key in ("columns", "targets") for column in content[key]]
    firsts = [column["first"] for key in ("columns", "targets") for column in content[key]]
    texts = [column["categories"] for column in content["columns"]]
    classes = content["classes"]
    wrong = {
        "holds numbers that are not finite": not all(
            bool(x.isfinite().all()) for name, x in tensors.items() if name != "medians"
        ),
        "names no target": not content["targets"] or (classes and len(content["targets"]) != 1),
        "names a column twice": len({*names}) < len(names),
        "names a category twice": any(len({*some}) < len(some) for some in texts),
        "names less than two classes, or one twice": classes is not None
        and (len(classes) < 2 or len({*classes}) < len(classes)),
        "counts from no number": not all(is_number(x) for x in firsts if x is not None),
        "divides by nothing": any(
            bool((x <= 0).any()) for name, x in tensors.items() if name.endswith(".deviation")
        ),
        "scales by no power of two": any(
            bool(((x != x.round()) | (x.abs() > LARGEST_EXPONENT)).any())
            for name, x in tensors.items()
            if name.endswith(".exponent")
        ),
    }
    if found := [what for what, is_so in wrong.items() if is_so]:
        raise ResultsError(f"{path} is malformed: it {found[0]}. {REMEDY}")
