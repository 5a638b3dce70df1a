"""Pictures of packed rows, and of what a simulation found.

Public names:

    save_pack        one row as a page: its trees, its mask, what is trained on
    pack_html        the text of that page
    save_simulation  what `treepack.simulate` found, as a page with plots
    mask_picture     the mask of a row as palette indices
    PALETTE          the colours of these indices
    png              palette indices as a PNG file
"""

from __future__ import annotations

from treepack.viz.page import pack_html, save_pack
from treepack.viz.picture import PALETTE, mask_picture, png
from treepack.viz.simulation import save_simulation

__all__ = ["PALETTE", "mask_picture", "pack_html", "png", "save_pack", "save_simulation"]


def __dir__() -> list[str]:
    return sorted(__all__)
