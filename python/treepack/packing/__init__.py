"""Choosing the examples that together fill one row; needs numpy alone."""

from __future__ import annotations

from treepack._core import Pack, Packer

__all__ = ["Pack", "Packer"]
