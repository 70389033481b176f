"""What is made once at a body, for all who ask for it there."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from bilevel.data.rows import Rows
from bilevel.trees import Tree


class Kept:
    """Gram matrices, systems and slopes, while the features that they are made of are shared.

    Bodies and rows are told apart by identity.
    """

    def __init__(self) -> None:
        self._made: dict[Any, Any] | None = None

    @contextmanager
    def sharing(self) -> Iterator[None]:
        """Keep what is made in the block."""
        before, self._made = self._made, {}
        try:
            yield
        finally:
            self._made = before

    def once(
        self, body: Tree, rows: Rows, name: Any, make: Callable[[], Any], head: Tree = None
    ) -> Any:
        """What `make` makes at a body, rows and a head; outside of `sharing` made anew."""
        if self._made is None or "train" not in rows.groups:
            return make()
        train = rows.identity
        key = id(body), *map(id, train), id(head), name
        if key not in self._made:
            self._made[key] = make(), body, train, head  # held, so that no others get their numbers
        return self._made[key][0]
