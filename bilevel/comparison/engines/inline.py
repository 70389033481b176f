"""This process as an engine: for shards that another engine left."""

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import torch

from bilevel.comparison.engines.base import AbstractEngine


class Inline(AbstractEngine):
    """Computes a shard when it is submitted."""

    name, workers, window, timeout = "this process", 1, 1, None

    def __init__(self) -> None:
        self.threads = torch.get_num_threads()

    def submit(self, function: Callable[..., Any], /, *args: Any) -> "Future[Any]":
        """Call a function now."""
        future: Future[Any] = Future()
        future.set_result(function(*args))
        return future
