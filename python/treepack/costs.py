"""Costs that are known before anything is loaded.

Public names:

    measure       measure every example of a source; no pixel is decoded
    read          a table from a file of any kind that is supported
    from_numpy    a table from an array or an npy file
    from_parquet  a table from a Parquet file, or from a folder of them
    CostTable     the costs of every example; pass it as ``PackedDataset(costs=)``
    Branches      the tokens of each branch of every example
"""

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
