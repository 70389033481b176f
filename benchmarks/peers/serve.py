"""Pieces of work that another library does when it is told to, in a process of its own.

Only NumPy and the peers are installed there, not `bilevel`. A line on the standard input is a piece
to do; the answer is a line of JSON with the CPU seconds it took and, where there is one, its value.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Piece = Callable[[], Any]


def settings() -> dict[str, Any]:
    """What the asking process wants to have done: its sizes."""
    found: dict[str, Any] = json.loads(sys.argv[1])
    return found


def serve(pieces: Mapping[str, Piece]) -> None:
    """Do the pieces that are asked for until the input ends; each once before, to compile."""
    for piece in pieces.values():
        piece()
    print(json.dumps({"ready": sorted(pieces)}), flush=True)
    for line in sys.stdin:
        began = time.process_time()
        value = pieces[line.strip()]()
        seconds = time.process_time() - began
        shown = None if value is None else np.asarray(value).tolist()
        print(json.dumps({"seconds": seconds, "value": shown}), flush=True)
