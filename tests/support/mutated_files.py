"""Files that were damaged in one place: values of other types, cut files, swapped bytes, tensors.

A mutation is a name and the new bytes of one file, or a function that makes them; None is a folder
in the file's place, `MISSING` no file at all.
"""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from bilevel.storage.tensors import read_tensors, write_tensors

MISSING = object()
DEEP = "[" * 5000 + "]" * 5000
NESTED = "[" * 300 + "]" * 300  # any reader of JSON takes it, not all that look at it afterwards
VALUES = ("null", "true", "-1", "2.5", "1e999", "1" * 400, "9" * 5000, "NaN", "-Infinity",
          '"text"', '"../../x"', '""', '"\\u0000"', '"\\ud800"', "[]", "{}", "[[1]]", '{"a": 1}',
          NESTED, DEEP)  # fmt: skip
HOLE = "\N{WHITE SQUARE}"
Mutation = tuple[str, Any]


def of_json(text: str) -> Iterator[Mutation]:
    """Every value of another type, deleted, doubled; every key renamed."""
    content = json.loads(text)
    for place, put, delete, rename in _places(content):
        original = put(HOLE)
        holed = json.dumps(content)
        put(original)
        same = json.dumps(original)
        for value in VALUES:
            if value != same:
                kinds = _kind(value), _kind(same)
                swap = "" if kinds[0] == kinds[1] else f" ({kinds[0]} for {kinds[1]})"
                yield (
                    f"{place} = {value[:12]}{swap}",
                    holed.replace(json.dumps(HOLE), value, 1).encode(),
                )
        kept = delete()
        yield f"{place} deleted", json.dumps(content).encode()
        kept()
        for name in ("../x", ""):
            back = rename(name)
            yield f"{place} renamed {name!r}", json.dumps(content).encode()
            back()
    for added in ('"more": 1', '"": []', '"format": 2'):
        yield f"added {added}", (text.rstrip().rstrip("}") + f", {added}}}").encode()


def _kind(text: str) -> str:
    """The JSON type of a value."""
    kinds = {'"': "text", "[": "list", "{": "object", "n": "null", "t": "truth", "f": "truth"}
    return kinds.get(text[0], "number")


def _places(node: Any, place: str = "") -> Iterator[tuple[str, Any, Any, Any]]:
    """Every value below a node, with how to replace it, delete it and rename its key."""
    pairs = list(node.items() if isinstance(node, dict) else enumerate(node))
    for key, value in pairs:

        def put(new: Any, key: Any = key) -> Any:
            old, node[key] = node[key], new
            return old

        def delete(key: Any = key) -> Any:
            saved = node.copy()
            del node[key]
            return lambda: _refill(node, saved)

        def rename(new: str, key: Any = key) -> Any:
            saved = node.copy()
            if isinstance(node, dict):
                _refill(node, {new if k == key else k: v for k, v in saved.items()})
            else:
                node.append(node[key])
            return lambda: _refill(node, saved)

        yield f"{place}.{key}", put, delete, rename
        if isinstance(value, dict | list):
            yield from _places(value, f"{place}.{key}")


def _refill(node: Any, saved: Any) -> None:
    node.clear()
    node.update(saved) if isinstance(node, dict) else node.extend(saved)


def of_bytes(raw: bytes, random: random.Random, count: int = 40) -> Iterator[Mutation]:
    """Any file: cut, emptied, bytes swapped, put in, taken out, a folder in its place."""
    yield "missing", MISSING
    yield "folder", None
    yield from {
        "empty": b"", "not UTF-8": b"\xff\xfe" + raw, "NUL": raw[:20] + b"\0" + raw[20:],
        "twice": raw + raw, "zeros": bytes(64), "a mark": b"\xef\xbb\xbf" + raw, "null": b"null",
        "a huge header": (10**13).to_bytes(8, "little") + raw[8:], "deep": DEEP.encode(),
        "UTF-16": raw.decode("latin-1").encode("utf-16"), "old Mac": raw.replace(b"\n", b"\r"),
    }.items()  # fmt: skip
    for _ in range(count):
        place, other = random.randrange(len(raw)), random.randrange(len(raw))
        yield f"cut at {place}", raw[:place]
        yield f"from {place}", raw[place:]
        changed = bytearray(raw)
        changed[place], changed[other] = changed[other], changed[place]
        yield f"{place} and {other} swapped", bytes(changed)
        yield f"byte {place}", raw[:place] + bytes([random.randrange(256)]) + raw[place + 1 :]
        yield f"taken out {place}", raw[:place] + raw[place + random.randrange(1, 9) :]


def of_csv(text: str, random: random.Random, count: int = 60) -> Iterator[Mutation]:
    """Cells, lines and columns."""
    lines = text.splitlines()
    cells = [line.split(",") for line in lines]
    values = ("", "text", "1e999", "1_0", " 1", "0x1", "nan", "\u0663", '"', '"a\nb"', "1,2", "-0",
              "9" * 200_000, "\0", "../x", "1.5", "True", "-1")  # fmt: skip
    for _ in range(count):
        row, value = random.randrange(len(cells)), random.choice(values)
        column = random.randrange(len(cells[row]))
        changed = [list(line) for line in cells]
        changed[row][column] = value
        name = f"line {row + 1} column {column} = {value[:9]!r}"
        yield name, _joined(changed)
    for row in random.sample(range(len(cells)), min(12, len(cells))):
        yield f"line {row + 1} deleted", _joined(cells[:row] + cells[row + 1 :])
        yield f"line {row + 1} twice", _joined(cells[: row + 1] + cells[row:])
        swapped = list(cells)
        swapped[row], swapped[-1] = swapped[-1], swapped[row]
        if row < len(cells) - 1:
            yield f"line {row + 1} swapped", _joined(swapped)
    for column in range(len(cells[0])):
        yield f"column {column} deleted", _joined([c[:column] + c[column + 1 :] for c in cells])
        yield f"column {column} twice", _joined([[*c, c[column]] for c in cells])
        yield (
            f"column {column} named twice",
            _joined([[*cells[0][:-1], cells[0][column]], *cells[1:]]),
        )
    yield "header alone", (lines[0] + "\n").encode()


def _joined(cells: list[list[str]]) -> bytes:
    return ("\n".join(map(",".join, cells)) + "\n").encode()


def of_tensors(path: Path, scratch: Path) -> Iterator[Mutation]:
    """Files of tensors that were written as a whole: their checksum is right, what they say not."""
    tensors, content = read_tensors(path)
    for name, raw in of_json(json.dumps(content)):
        try:
            changed = json.loads(raw)
        except (ValueError, RecursionError):  # no file of the library could hold it
            continue
        yield f"content{name}", _written(scratch, tensors, changed)
    for name, tensor in tensors.items():
        for how, other in _others(tensor).items():
            kept = {key: x for key, x in tensors.items() if key != name}
            more = {} if other is None else {f"{name}{other}": tensor} \
                if isinstance(other, str) else {name: other}  # fmt: skip
            yield f"{name} {how}", _written(scratch, kept | more, content)
    yield "no tensors", _written(scratch, {}, content)
    metadata = {"content": json.dumps(content)}
    for name, found in {"no metadata": None, "no checksum": metadata,
                        "another checksum": metadata | {"sha256": "0" * 64}}.items():  # fmt: skip
        yield name, safetensors.torch.save(tensors, found)


def _others(tensor: torch.Tensor) -> dict[str, Any]:
    """Tensors in the place of one; None: none, a text: the same under a longer name."""
    nan = tensor.double() * torch.nan
    return {
        "gone": None, "renamed": "/../x", "integers": tensor.long(), "halves": tensor.half(),
        "doubles": tensor.double(), "singles": tensor.float(), "truths": tensor.bool(),
        "complex": tensor.to(torch.complex64), "a number": tensor.flatten()[:1].squeeze(),
        "empty": tensor[:0] if tensor.ndim else tensor.new_zeros(0), "longer": torch.cat(
            [tensor, tensor]) if tensor.ndim else tensor.new_zeros(2),
        "deeper": tensor.unsqueeze(-1), "wider": tensor.unsqueeze(0),
        "shorter": tensor[:-1] if tensor.ndim else tensor.new_zeros(0),
        "flat": tensor.flatten(), "huge": torch.full_like(tensor, 100) * 100,
        "NaN": nan if not tensor.is_floating_point() else nan.to(tensor.dtype),
    }  # fmt: skip


def _written(scratch: Path, tensors: dict[str, torch.Tensor], content: Any) -> Callable[[], bytes]:
    def make() -> bytes:
        write_tensors(scratch, tensors, content)
        return scratch.read_bytes()

    return make


def placed(path: Path, raw: Any) -> None:
    """Put a mutation in the place of a file."""
    if path.is_dir():
        path.rmdir()
    path.unlink(missing_ok=True)
    if raw is None:
        path.mkdir()
    elif raw is not MISSING:
        path.write_bytes(raw() if callable(raw) else raw)
