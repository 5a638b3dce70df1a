"""Exact attention over packed message trees, forward and backward, in stock varlen calls."""

from __future__ import annotations

from treepack.attention.ops import tree_attention
from treepack.attention.plan import TreePlan

__all__ = ["TreePlan", "tree_attention"]
