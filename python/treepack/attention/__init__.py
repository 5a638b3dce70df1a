"""Exact attention over packed message trees, forward and backward, in stock varlen calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

from treepack._lazy import lazy_names

if TYPE_CHECKING:
    from treepack.attention.ops import tree_attention
    from treepack.attention.plan import TreePlan

__all__ = ["TreePlan", "tree_attention"]

if not TYPE_CHECKING:
    # `treepack.attention.formats` needs numpy alone, the others torch.
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "TreePlan": "treepack.attention.plan[torch]",
            "tree_attention": "treepack.attention.ops[torch]",
        },
    )
