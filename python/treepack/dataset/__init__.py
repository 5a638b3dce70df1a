"""The stream of packed rows: one pool for each virtual shard, exact resume."""

from __future__ import annotations

from typing import TYPE_CHECKING

from treepack._lazy import lazy_names

if TYPE_CHECKING:
    from treepack.dataset.dataset import PackedDataset

__all__ = ["PackedDataset"]

if not TYPE_CHECKING:
    # A state is read without torch, which the dataset itself needs.
    __getattr__, __dir__ = lazy_names(
        __name__, {"PackedDataset": "treepack.dataset.dataset[torch]"}
    )
