"""Costs that are known before anything is loaded: the public names of ``sources.costs``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from treepack._lazy import lazy_names
from treepack.sources.costs import Branches, CostTable, from_numpy, from_parquet, read

if TYPE_CHECKING:
    from treepack.measuring.measure import measure

__all__ = ["Branches", "CostTable", "from_numpy", "from_parquet", "measure", "read"]

if not TYPE_CHECKING:
    # It needs torch.
    __getattr__, __dir__ = lazy_names(__name__, {"measure": "treepack.measuring.measure[torch]"})
