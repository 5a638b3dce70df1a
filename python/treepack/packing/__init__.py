"""Choosing the examples that together fill one row, and trying it out; needs numpy alone."""

from __future__ import annotations

from treepack._core import Pack, Packer
from treepack._lazy import lazy_names

__all__ = ["Advice", "FrontierPoint", "Pack", "Packer", "PoolOutcome", "Simulation", "simulate"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Advice": "treepack.packing.advice",
        "FrontierPoint": "treepack.packing.outcome",
        "PoolOutcome": "treepack.packing.outcome",
        "Simulation": "treepack.packing.simulation",
        "simulate": "treepack.packing.simulation",
    },
)
