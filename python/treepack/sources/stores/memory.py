"""Records that are given as a sequence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from treepack.errors import DataError
from treepack.sources.stores.base import one_or_error


class Listed:
    """Records in a list, or in anything that is read by number; nothing is copied."""

    def __init__(self, records: Sequence[Any]) -> None:
        self.records = records
        self.path = ""

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Any]:
        return (one_or_error(self, index) for index in range(len(self.records)))

    def __getitem__(self, index: int) -> Any:
        try:
            return self.records[index]
        except Exception as error:
            # A sequence of the user's may do anything; one record must not end them all.
            raise DataError(
                f"{self.name(index)}: cannot be read: {type(error).__name__}: {str(error)[:200]}"
            ) from error

    def name(self, index: int) -> str:
        """``record 17``."""
        return f"record {index}"
