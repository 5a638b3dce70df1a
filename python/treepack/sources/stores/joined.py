"""Several stores as one."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from treepack.sources.stores.base import Store


class Joined:
    """The records of several stores, one store after the other."""

    def __init__(self, stores: Sequence[Store]) -> None:
        self.stores: list[Store] = list(stores)
        self.ends: list[int] = list(itertools.accumulate(map(len, self.stores)))
        first = self.stores[0].path
        self.path: str = (
            first if len(self.stores) == 1 else f"{first} and {len(self.stores) - 1} more"
        )

    def __len__(self) -> int:
        return self.ends[-1]

    def __iter__(self) -> Iterator[Any]:
        return itertools.chain.from_iterable(self.stores)

    def __getitem__(self, index: int) -> Any:
        store, place = self._find(index)
        return store[place]

    def name(self, index: int) -> str:
        """As its own store calls it."""
        store, place = self._find(index)
        return store.name(place)

    def _find(self, index: int) -> tuple[Store, int]:
        which = bisect.bisect_right(self.ends, index)
        return self.stores[which], index - (self.ends[which - 1] if which else 0)
