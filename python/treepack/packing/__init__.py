"""Choosing the examples that together fill one row; needs numpy alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from treepack._core import Pack, Packer
from treepack._lazy import lazy_names

if TYPE_CHECKING:
    from treepack.packing.advice import Advice
    from treepack.packing.balance import Balance
    from treepack.packing.offline import pack
    from treepack.packing.outcome import FrontierPoint, PoolOutcome
    from treepack.packing.packs import Packs
    from treepack.packing.simulation import Simulation, simulate

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

if not TYPE_CHECKING:
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
