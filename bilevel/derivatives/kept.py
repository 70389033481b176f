"""What is made once at a body, for all who ask for it there."""

import operator
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

    def once(self, body: Tree, rows: Rows, name: Any, make: Callable[[], Any], *of: Any) -> Any:
        """What `make` makes at a body, rows, and of a head, say; outside of `sharing` made anew."""
        if self._made is None or "train" not in rows.groups:
            return make()
        train = rows.identity
        key = name, id(body), *map(id, train), *map(id, of)
        if key not in self._made:
            self._made[key] = make(), body, train, of  # held, so that no others get their numbers
        return self._made[key][0]

    def first(self, body: Tree, rows: Rows, name: str, make: Callable[[], Any], *of: Any) -> Any:
        """The same of what is as long as the body: only what is asked for first is kept."""
        if self._made is None:
            return make()
        if name not in self._made:
            self._made[name] = make(), (body, rows.groups, *of)
        found = self.known(body, rows, name, *of)
        return make() if found is None else found

    def known(self, body: Tree, rows: Rows, name: str, *of: Any) -> Any:
        """What was kept by `first`; None if nothing was, or of something else."""
        if self._made is None or name not in self._made:
            return None
        found, known = self._made[name]
        asked = body, rows.groups, *of
        same = len(asked) == len(known) and all(map(operator.is_, asked, known))
        return found if same else None
