"""Choosing the examples that together fill one row; needs numpy alone."""

from __future__ import annotations

from treepack._core import Pack, Packer
from treepack._lazy import lazy_names

__all__ = [
    "Advice",
    "Balance",
    "FrontierPoint",
    "Pack",
    "Packer",
    "Packs",
    "PoolOutcome",
    "Simulation",
    "pack",
    "simulate",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Advice": "treepack.packing.advice",
        "Balance": "treepack.packing.balance",
        "FrontierPoint": "treepack.packing.outcome",
        "Packs": "treepack.packing.packs",
        "PoolOutcome": "treepack.packing.outcome",
        "Simulation": "treepack.packing.simulation",
        "pack": "treepack.packing.offline",
        "simulate": "treepack.packing.simulation",
    },
)
