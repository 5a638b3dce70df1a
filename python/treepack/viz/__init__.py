"""Pictures of packed rows: `save_pack` writes one page, `mask_picture` samples a mask."""

from __future__ import annotations

from treepack.viz.page import pack_html, save_pack
from treepack.viz.picture import PALETTE, mask_picture, png

__all__ = ["PALETTE", "mask_picture", "pack_html", "png", "save_pack"]
