"""Choosing the examples that together fill one row; needs numpy alone."""

from __future__ import annotations

from treepack._core import Pack, Packer
from treepack.packing.packs import Packs

__all__ = ["Pack", "Packer", "Packs"]
