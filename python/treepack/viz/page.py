"""One packed row as one self-contained page."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from treepack.packing.shares import percent
from treepack.viz.cards import cards
from treepack.viz.contents import Contents
from treepack.viz.drawing import captions, is_wide, mask, trees
from treepack.viz.markup import document, said
from treepack.viz.style import PACK
from treepack.viz.thumbnails import LARGE, SMALL, Thumbnail, make_thumbnail, store


def save_pack(
    batch: Any,
    path: str | os.PathLike[str],
    *,
    tokenizer: Any = None,
    images: Mapping[Any, Any] | None = None,
    title: str = "One packed row",
) -> Path:
    """Write the page of `pack_html` to a file.

    Args:
        batch: a `PackedBatch`, a `PackedRow` or a `TreeMask`.
        path: of the file, which is replaced; its folder must exist.
        tokenizer: anything with ``decode(ids) -> str``, or ``None`` for no texts.
        images: thumbnails by key of the example, paths or PIL images.
        title: heading of the page.

    Returns:
        The path.

    Raises:
        BatchError: ``batch`` is none of the three.
        OSError: the file cannot be written, or an image cannot be opened.
        DataError: the pixels of an image cannot be read.

    Example:
        >>> import tempfile, treepack as tp
        >>> mask = tp.TreeMask.from_nodes([6, 4, 3], [-1, 0, 0])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     tp.viz.save_pack(mask, f"{folder}/row.html").name
        'row.html'
    """
    page = pack_html(batch, tokenizer=tokenizer, images=images, title=title)
    target = Path(path)
    target.write_text(page, encoding="utf-8")
    return target


def pack_html(
    batch: Any,
    *,
    tokenizer: Any = None,
    images: Mapping[Any, Any] | None = None,
    title: str = "One packed row",
) -> str:
    """Draw a row: its trees along the row, how full it is, its mask, and what is trained on.

    The page is one string without links to anything outside, for light and dark screens of any
    width; long lists are folded. The mask is sampled at 512 x 512
    points at most, so a row of any length can be drawn.

    Args:
        batch: a `PackedBatch`, on any device; or a `PackedRow` or `TreeMask`, for a picture without
            texts. It is not modified.
        tokenizer: anything with ``decode(ids) -> str``, to show what the branches say; ``None``
            shows no texts. A processor names the tokens of its images too (``image_token_id``).
        images: thumbnails by key of the example, paths or PIL images; an example may lack one.
            They need Pillow.
        title: heading of the page.

    Returns:
        An HTML document.

    Raises:
        BatchError: ``batch`` is none of the three.
        OSError: an image cannot be opened.
        DataError: the pixels of an image cannot be read.

    Example:
        >>> import treepack as tp
        >>> page = tp.viz.pack_html(tp.TreeMask.from_nodes([6, 4, 3], [-1, 0, 0]))
        >>> page.startswith("<!doctype html>"), "http" in page
        (True, False)
    """
    row = Contents(batch, tokenizer)
    thumbnails = _thumbnails(row, images or {})
    parts = (
        f"<h1>{said(title)}</h1>{_facts(row)}{_budgets(row)}",
        f"{store(thumbnails)}<h2>The row</h2>{captions(row, thumbnails)}{trees(row)}",
        f'<div class="columns"><section><h2>The mask</h2>{mask(row)}</section>',
        f"<section><h2>Examples</h2>{cards(row, thumbnails)}</section></div>",
    )
    return document(title, PACK, "".join(parts))


def _thumbnails(row: Contents, images: Mapping[Any, Any]) -> dict[int, Thumbnail]:
    """By number of the example; smaller where it has no room over the row."""
    found = {}
    for root, key in zip(row.roots(), row.keys, strict=False):
        if key in images:
            side = LARGE if is_wide(row, root) else SMALL
            found[root.example] = make_thumbnail(images[key], side)
    return found


def _facts(row: Contents) -> str:
    mask = row.mask
    facts = [
        _counted(len(row.roots()), "example", "examples"),
        _counted(len(row.leaves), "branch", "branches"),
        (f"{mask.used:,} of {mask.total:,}", "tokens"),
    ]
    if "targets" in row.stats:
        facts.append(_counted(round(row.stats["targets"]), "target", "targets"))
    share = percent(mask.area / mask.total**2, 1)
    facts.append((f"{mask.area:,}", f"attention pairs, {share} of a dense mask"))
    text = " ".join(f"<span><b>{number}</b> {said(name)}</span>" for number, name in facts)
    return f'<p class="facts">{text}</p>'


def _counted(count: int, one: str, more: str) -> tuple[str, str]:
    return f"{count:,}", one if count == 1 else more


def _budgets(row: Contents) -> str:
    fills = {
        name.removeprefix("fill_"): value
        for name, value in row.stats.items()
        if name.startswith("fill_")
    }
    bars = "".join(
        f"<span>{said(name)}</span>"
        f'<div class="bar"><i style="width:{min(fill, 1):.2%}"></i></div>'
        f"<span>{percent(fill)} full</span>"
        for name, fill in fills.items()
    )
    return f'<div class="budgets">{bars}</div>' if fills else ""
