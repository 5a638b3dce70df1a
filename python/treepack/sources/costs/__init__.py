"""Costs that are known before anything is loaded, in memory and in files."""

from __future__ import annotations

from treepack.sources.costs.branches import Branches
from treepack.sources.costs.files import from_numpy, from_parquet, read
from treepack.sources.costs.table import CostTable, OrderedTabledSource, TabledSource

__all__ = [
    "Branches",
    "CostTable",
    "OrderedTabledSource",
    "TabledSource",
    "from_numpy",
    "from_parquet",
    "read",
]
