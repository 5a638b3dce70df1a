"""What a store of records is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from treepack.errors import DataError


class Store(Protocol):
    """Records by number.

    Attributes:
        path: of the file; empty if it is none.
    """

    path: str

    def __len__(self) -> int:
        """How many records there are."""

    def __iter__(self) -> Iterator[Any]:
        """All of them in order.

        Each is an object with named fields, its JSON text as bytes, or the `DataError` that says
        why it cannot be read.
        """

    def __getitem__(self, index: int) -> Any:
        """The record ``index``."""

    def name(self, index: int) -> str:
        """What errors call it, such as ``train.jsonl:17``."""


def one_or_error(store: Store, index: int) -> Any:
    """A record of a store, or why it cannot be read: those behind it still can."""
    try:
        return store[index]
    except DataError as error:
        return error
