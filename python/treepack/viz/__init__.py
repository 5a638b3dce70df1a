"""Pictures of packed rows, and of what a simulation found: `save_pack`, `save_simulation`."""

from __future__ import annotations

from treepack.viz.page import pack_html, save_pack
from treepack.viz.picture import PALETTE, mask_picture, png
from treepack.viz.simulation import save_simulation

__all__ = ["PALETTE", "mask_picture", "pack_html", "png", "save_pack", "save_simulation"]
