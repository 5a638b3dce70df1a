"""The mask of a row as a small picture, sampled through its three vectors."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from treepack.viz.colours import DARK, HUES, LIGHT, Theme

if TYPE_CHECKING:
    from treepack._core import TreeMask

KINDS = 3
"""Kinds of visible pairs: inside one node, of a node and its ancestors, and with a later token;
kind ``i`` of hue ``h`` has index ``1 + 3 * h + i``."""

Bytes = npt.NDArray[np.uint8]


def mask_picture(mask: TreeMask, size: int = 512) -> Bytes:
    """Sample which query (down) sees which key (across), coloured by example and kind.

    It looks at ``size`` queries and keys at most, so a long row costs no more than a short one.

    Args:
        mask: the row.
        size: side of the picture in pixels, 1 or more; a shorter row gets one pixel for each token.

    Returns:
        uint8 ``[side, side]``, queries down, keys across, with ``side = min(size, mask.total)``:
        indices into `PALETTE`, 0 where nothing is seen.

    Example:
        >>> import treepack as tp
        >>> mask = tp.TreeMask.from_nodes([2, 1, 1], [-1, 0, 0])
        >>> mask_picture(mask)
        array([[1, 0, 0, 0],
               [1, 1, 0, 0],
               [2, 2, 1, 0],
               [2, 2, 0, 1]], dtype=uint8)
    """
    side = min(size, mask.total)
    at = (np.arange(side) + 0.5) * (mask.total / side)
    positions = at.astype(np.int64)
    query, key = positions[:, None], positions[None]
    visible = (
        (mask.key_lo[positions][None] <= query)
        & (query < mask.key_end[positions][None])
        & (key <= mask.query_hi[positions][:, None])
    )
    node = node_of(mask, positions)
    kind = np.where(key > query, 2, node[:, None] != node[None])
    hue = mask.node_example[node] % len(HUES)
    return np.where(visible, 1 + KINDS * hue[:, None] + kind, 0).astype(np.uint8)


def node_of(mask: TreeMask, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The node that holds each row position; for padding, the last node."""
    # Of nodes that start at one position only the last can have tokens.
    return np.searchsorted(mask.node_start, positions, "right") - 1


def _palette(theme: Theme) -> Bytes:
    kinds = (shade for hue in theme.hues for shade in (hue.strong, hue.soft, hue.middle))
    colours = [[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in (theme.card, *kinds)]
    return np.array(colours, np.uint8)


PALETTE = _palette(LIGHT)
"""uint8 ``[25, 3]``: the background, then three kinds for each of eight hues."""

DARK_PALETTE = _palette(DARK)
"""The same for dark screens."""


def png(indices: Bytes, palette: Bytes = PALETTE) -> bytes:
    """Encode a picture of palette indices as PNG.

    Args:
        indices: uint8 ``[height, width]``, each less than the number of colours.
        palette: uint8 ``[colours, 3]``, red, green and blue; at most 256 colours.

    Returns:
        The bytes of the file, the same for the same picture.

    Source:
        Portable Network Graphics, W3C; colour type 3, eight bits a pixel, no filter.

    Example:
        >>> png(np.zeros((2, 3), np.uint8))[1:4]
        b'PNG'
    """
    height, width = indices.shape
    # Each line of a PNG starts with the number of its filter; 0 is none.
    lines = np.zeros((height, width + 1), np.uint8)
    lines[:, 1:] = indices
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
        (b"PLTE", palette.tobytes()),
        (b"IDAT", zlib.compress(lines.tobytes(), 9)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, data) for name, data in chunks)


def _chunk(name: bytes, data: bytes) -> bytes:
    check = zlib.crc32(name + data)
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", check)
