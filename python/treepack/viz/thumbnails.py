"""Small pictures of a page, each kept once and shown wherever it is wanted."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from treepack._packages import needing
from treepack.viz.markup import said

LARGE, SMALL = 240, 112
"""Longest side in pixels: of a picture over the row, and of one that is in the list alone."""


class Thumbnail(NamedTuple):
    """A picture as the page holds it.

    Attributes:
        width: in pixels.
        height: in pixels.
        uri: its data.
    """

    width: int
    height: int
    uri: str


def make_thumbnail(image: Any, side: int) -> Thumbnail:
    """Shrink a path or a PIL image to a JPEG, upright and on white; the image itself is unchanged.

    Args:
        image: what is shrunk.
        side: its longest side, in pixels.

    Raises:
        OSError: there is no such file, or it is no image.
        DataError: its pixels cannot be read.
        MissingPackageError: Pillow is not installed.
    """
    with needing("viz", "a page with images"):
        from PIL import Image
    from treepack.sources.images import load_rgb

    opened = Image.open(image) if isinstance(image, (str, os.PathLike)) else image.copy()
    with opened:
        # Large files are decoded at a fraction of their size.
        opened.draft(opened.mode, (side, side))
        picture = Image.fromarray(load_rgb(opened, str(image)))
    picture.thumbnail((side, side))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=82)
    width, height = picture.size
    return Thumbnail(width, height, data_uri("image/jpeg", buffer.getvalue()))


def store(thumbnails: Mapping[int, Thumbnail]) -> str:
    """All pictures of the page, by number of the example; they are not seen here."""
    symbols = "".join(
        f'<symbol id="t{example}" viewBox="0 0 {each.width} {each.height}" '
        f'preserveAspectRatio="xMidYMid slice"><image width="{each.width}" '
        f'height="{each.height}" href="{each.uri}"/></symbol>'
        for example, each in thumbnails.items()
    )
    return f'<svg class="store" width="0" height="0" aria-hidden="true">{symbols}</svg>'


def shown(example: int, name: str = "") -> str:
    """One of the pictures of `store`.

    Args:
        example: its number.
        name: what it is called; without one, readers of screens skip it.
    """
    told = f'role="img" aria-label="{said(name)}"' if name else 'aria-hidden="true"'
    return f'<svg class="thumb" {told}><use href="#t{example}"/></svg>'


def data_uri(kind: str, data: bytes) -> str:
    """A file as an address that holds all of it."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
