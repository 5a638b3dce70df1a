"""Data sets of the Hugging Face library ``datasets``, in memory or on disk."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

BATCH = 64


class DatasetStore:
    """A ``datasets.Dataset``, whose images stay encoded: they are read as Arrow says them."""

    def __init__(self, dataset: Any) -> None:
        self.dataset: Any = dataset.with_format("arrow", columns=dataset.format["columns"])
        self.path = ""

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[Any]:
        for table in self.dataset.iter(BATCH):
            yield from table.to_pylist()

    def __getitem__(self, index: int) -> Any:
        return self.dataset[int(index)].to_pylist()[0]

    def name(self, index: int) -> str:
        """``record 17``."""
        return f"record {index}"
