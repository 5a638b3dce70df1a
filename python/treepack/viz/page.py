"""One packed row as one self-contained page."""

from __future__ import annotations

import base64
import io
import os
import re
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from treepack.viz.contents import Contents, Node
from treepack.viz.picture import KINDS, PALETTE, mask_picture, png, tint
from treepack.viz.style import CSS

WIDTH = 1176
LANE = 26
GUTTER = 14
MOST_BRANCHES = 12
THUMBNAIL = 240
TICKS = 16
SPECIAL = re.compile(r"(&lt;\|[^|\s]*\|&gt;)")
"""How tokenizers write tokens that are markup, after escaping."""


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
        OSError: the file cannot be written, or an image cannot be read.

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

    The page is one string without links to anything outside. The mask is sampled at 512 x 512
    points at most, so a row of any length can be drawn.

    Args:
        batch: a `PackedBatch`, on any device; or a `PackedRow` or `TreeMask`, for a picture without
            texts. It is not modified.
        tokenizer: anything with ``decode(ids) -> str``, to show what the branches say; ``None``
            shows no texts.
        images: thumbnails by key of the example, paths or PIL images; an example may lack one.
            They need Pillow.
        title: heading of the page.

    Returns:
        An HTML document.

    Raises:
        BatchError: ``batch`` is none of the three.
        OSError: an image cannot be read.

    Example:
        >>> import treepack as tp
        >>> page = tp.viz.pack_html(tp.TreeMask.from_nodes([6, 4, 3], [-1, 0, 0]))
        >>> page.startswith("<!doctype html>"), "http" in page
        (True, False)
    """
    row = Contents(batch, tokenizer)
    thumbs = {
        example: _thumbnail(images[key])
        for example, key in enumerate(row.keys)
        if images and key in images
    }
    parts = (
        f"<h1>{escape(title)}</h1>{_facts(row)}{_budgets(row)}",
        f'<h2>The row</h2><div class="row">{_figures(row, thumbs)}{_icicle(row)}</div>',
        f'<div class="columns"><section class="mask"><h2>The mask</h2>{_mask(row)}</section>',
        f"<section><h2>Examples</h2>{_cards(row)}</section></div>",
    )
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{CSS}</style>'
    return f"<!doctype html><html lang=en><head>{head}</head><body>{''.join(parts)}</body></html>\n"


def _facts(row: Contents) -> str:
    mask = row.mask
    dense = mask.area / mask.total**2
    facts = [
        (f"{len(row.roots()):,}", "examples"),
        (f"{len(row.leaves):,}", "branches"),
        (f"{mask.used:,} of {mask.total:,}", "tokens"),
        (f"{mask.area:,}", f"attention pairs, {dense:.1%} of a dense mask"),
    ]
    if "targets" in row.stats:
        facts.insert(3, (f"{row.stats['targets']:,.0f}", "targets"))
    text = " &nbsp;·&nbsp; ".join(f"<b>{number}</b> {name}" for number, name in facts)
    return f'<p class="facts">{text}</p>'


def _budgets(row: Contents) -> str:
    fills = {
        name.removeprefix("fill_"): value
        for name, value in row.stats.items()
        if name.startswith("fill_")
    }
    bars = "".join(
        f"<span>{escape(name)}</span>"
        f'<div class="bar"><i style="width:{min(fill, 1):.2%}"></i></div>'
        f"<span>{fill:.0%} full</span>"
        for name, fill in fills.items()
    )
    return f'<div class="budgets">{bars}</div>' if fills else ""


def _figures(row: Contents, thumbs: Mapping[int, str]) -> str:
    """A lane of thumbnails, each over the stretch of its example."""
    if not thumbs:
        return ""
    figures = "".join(
        f'<figure style="left:{root.start / row.mask.total:.3%};'
        f'width:{(root.subtree_end - root.start) / row.mask.total:.3%}">'
        + (f'<img src="{thumbs[root.example]}" alt="">' if root.example in thumbs else "")
        + f"<figcaption>{escape(row.name(root.example))}</figcaption></figure>"
        for root in row.roots()
    )
    return f'<div class="thumbs">{figures}</div>'


def _icicle(row: Contents) -> str:
    """The trees along the row: a lane for each depth, image tokens darker than text."""
    scale = WIDTH / row.mask.total
    depth = max(node.depth for node in row.nodes) + 1
    height = depth * LANE
    shapes = "".join(_bar(row, node, scale) for node in row.nodes)
    padding = row.mask.total - row.mask.used
    if padding:
        shapes += _rect(row.mask.used, row.mask.total, 0, height, scale, "#e7e9ee", "padding")
    axis = "".join(
        f'<text x="{tick * scale:.1f}" y="{height + 16}" text-anchor="middle">{tick:,}</text>'
        for tick in _ticks(row.mask.total)
    )
    legend = _legend(
        ("#525b6b", "image tokens of a root"), ("#a9b0bd", "its text"), ("#d5d9e0", "branches")
    )
    return (
        f'<svg viewBox="0 0 {WIDTH} {height + 20}" role="img">{shapes}'
        f'<g class="axis">{axis}</g></svg>{legend}'
    )


def _bar(row: Contents, node: Node, scale: float) -> str:
    label = f"{row.name(node.example)}: {node.end - node.start} tokens"
    text = " ".join(piece for piece, _ in row.text(node)).strip()
    label += f"\n{text}" if node.depth and text else ""
    y = node.depth * LANE
    if node.depth:
        return _rect(node.start, node.end, y, LANE - 2, scale, _hex(node.colour, 0.45), label)
    # A root reaches over its branches, so that it is plain to see whose they are.
    spans = [
        (node.start, node.subtree_end, _hex(node.colour, 0.82)),
        (node.start, node.end, _hex(node.colour, 0.45)),
        *((a, b, node.colour) for a, b in row.image_runs(node)),
    ]
    return "".join(_rect(a, b, y, LANE - 2, scale, fill, label) for a, b, fill in spans)


def _rect(a: int, b: int, y: float, height: float, scale: float, fill: str, label: str) -> str:
    if a == b:
        return ""
    width = max((b - a) * scale - 0.8, 0.5)
    return (
        f'<rect x="{a * scale:.2f}" y="{y}" width="{width:.2f}" height="{height}" fill="{fill}">'
        f"<title>{escape(label)}</title></rect>"
    )


def _ticks(total: int) -> range:
    """Round row positions, at most `TICKS` of them."""
    step = 1
    while step * TICKS < total:
        step *= 2
    return range(0, total + 1, step)


def _mask(row: Contents) -> str:
    """The sampled mask, with the examples along its queries and keys."""
    picture = mask_picture(row.mask)
    side = 512
    scale = side / row.mask.total
    edges = "".join(
        _rect(root.start, root.subtree_end, 0, GUTTER - 4, scale, root.colour, row.name(i))
        for i, root in enumerate(row.roots())
    )
    kinds = sorted({(int(value) - 1) % len(KINDS) for value in set(picture.flat) if value})
    legend = _legend(*((_css(PALETTE[1 + kind]), KINDS[kind]) for kind in kinds))
    return (
        f'<svg viewBox="{-GUTTER} {-GUTTER} {side + GUTTER} {side + GUTTER}" role="img">'
        f'<g transform="translate(0 {-GUTTER})">{edges}</g>'
        f'<g transform="translate({-GUTTER} 0) matrix(0 1 1 0 0 0)">{edges}</g>'
        f'<image width="{side}" height="{side}" preserveAspectRatio="none" '
        f'href="{_data_uri("image/png", png(picture))}"/></svg>{legend}'
        "<aside>Each line is a query, each column a key.</aside>"
    )


def _cards(row: Contents) -> str:
    told = "<aside><b>Coloured words</b> are trained on.</aside>" if row.trained.any() else ""
    return told + "".join(_card(row, root) for root in row.roots())


def _card(row: Contents, root: Node) -> str:
    below = row.below(root)
    branches = sum(leaf.example == root.example for leaf in row.leaves)
    image = sum(end - start for start, end in row.image_runs(root))
    size = f"root of {root.end - root.start:,} tokens"
    size += f", {image:,} of them image" if image else ""
    size += f"; {branches} {'branch' if branches == 1 else 'branches'}" if branches else ""
    lines = [line for node in below if (line := _line(row, node))]
    more = f"<p>and {len(lines) - MOST_BRANCHES} more</p>" if len(lines) > MOST_BRANCHES else ""
    said = "".join([_line(row, root), *lines[:MOST_BRANCHES], more])
    name = escape(row.name(root.example))
    return (
        f'<article style="--c:{root.colour}"><i></i><div><h3>{name}<small>{size}</small></h3>'
        f"{said}</div></article>"
    )


def _line(row: Contents, node: Node) -> str:
    pieces = [
        f"<b>{_words(text)}</b>" if trained else _words(text)
        for text, trained in row.text(node)
        if text.strip()
    ]
    # What goes on from a branch stands further to the right.
    place = f' style="margin-left:{min(node.depth - 1, 8)}em"' if node.depth > 1 else ""
    return f"<p{place}>{' '.join(pieces)}</p>" if pieces else ""


def _words(text: str) -> str:
    return SPECIAL.sub(r"<code>\1</code>", escape(text))


def _legend(*entries: tuple[str, str]) -> str:
    spans = "".join(f'<span style="--c:{colour}">{name}</span>' for colour, name in entries)
    return f'<div class="legend">{spans}</div>'


def _hex(colour: str, share: float) -> str:
    return _css(tint(colour, share))


def _css(rgb: Any) -> str:
    return "#" + "".join(f"{int(channel):02x}" for channel in rgb)


def _thumbnail(image: Any) -> str:
    from PIL import Image

    picture = Image.open(image) if isinstance(image, (str, os.PathLike)) else image.copy()
    with picture:
        picture = picture.convert("RGB")
        picture.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=82)
    return _data_uri("image/jpeg", buffer.getvalue())


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
