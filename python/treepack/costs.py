"""Costs that are known before anything is loaded: the public names of ``sources.costs``."""

from __future__ import annotations

from treepack.sources.costs import CostTable, from_numpy, from_parquet, read

__all__ = ["CostTable", "from_numpy", "from_parquet", "read"]
