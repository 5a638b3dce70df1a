"""The trees along a row, and its mask."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from treepack.packing.shares import percent
from treepack.viz.contents import Contents, Node
from treepack.viz.markup import legend, said, shortened
from treepack.viz.picture import DARK_PALETTE, KINDS, mask_picture, png
from treepack.viz.thumbnails import data_uri, shown

WIDTH = 1176
"""Of the row in units of its drawing, which are pixels where the page has room for them."""

LANE, LANES = 26, 420
"""Pixels of a lane, and most of all lanes together."""

CAPTION = 40
"""Narrowest stretch that has a caption and a picture."""

NARROW = 1.5
"""Nodes of less become one bar with their neighbours."""

GAP = 0.8
TICKS = 16
HOVER = 240
"""Characters of a text that shows where the pointer is."""

SIDE = 512
"""Points along each side of the mask."""


class Bar(NamedTuple):
    """Nodes that are drawn as one.

    Attributes:
        nodes: neighbours of one example at one depth; more than one only if all are narrow.
        start: first row position.
        end: end of the last one's own tokens.
    """

    nodes: list[Node]
    start: int
    end: int


def is_wide(row: Contents, root: Node) -> bool:
    """Whether an example has room for a caption."""
    return (root.subtree_end - root.start) * WIDTH >= CAPTION * row.mask.total


def captions(row: Contents, pictures: Container[int]) -> str:
    """Name and picture of each example over its stretch, where it has room for them.

    Args:
        row: what is drawn.
        pictures: numbers of the examples that have one.
    """
    wide = [root for root in row.roots() if is_wide(row, root)]
    has_pictures = any(root.example in pictures for root in wide)
    figures = "".join(
        f'<figure style="left:{root.start / row.mask.total:.3%};'
        f'width:{(root.subtree_end - root.start) / row.mask.total:.3%}"><div>'
        + (shown(root.example) if root.example in pictures else "")
        + f"<figcaption>{said(row.name(root.example))}</figcaption></div></figure>"
        for root in wide
    )
    kind = "lane pictures" if has_pictures else "lane"
    return f'<div class="{kind}">{figures}</div>' if wide else ""


def trees(row: Contents) -> str:
    """The trees along the row: a lane for each depth, image tokens stronger than text."""
    total = row.mask.total
    depth = max(node.depth for node in row.nodes) + 1
    lane = min(LANE, LANES / depth)
    shapes = [f'<g class="h{bar.nodes[0].hue}">{_bar(row, bar, lane)}</g>' for bar in _bars(row)]
    if row.mask.used < total:
        shapes.append(_rect("padding", row.mask.used, total, 0, lane * depth, total, "padding"))
    examples = len(row.roots())
    told = (
        f"{examples:,} {'example' if examples == 1 else 'examples'} along {total:,} tokens, "
        f"nodes of each depth in a lane of their own"
    )
    return (
        f'<svg class="trees" viewBox="0 0 {WIDTH} {lane * depth:g}" preserveAspectRatio="none" '
        f'style="height:{lane * depth:g}px" role="img" aria-label="{told}">'
        f"{''.join(shapes)}</svg>{_axis(total)}{_legend(row)}"
    )


def _legend(row: Contents) -> str:
    hues = [root.hue for root in row.roots()]
    media = [root.hue for root in row.roots() if row.media_runs(root)]
    inner = [node.hue for node in row.nodes if node.subtree_end > node.end]
    entries: list[tuple[str, Sequence[int], str]] = []
    if media:
        told = ", guessed from repeated tokens" if row.is_guess else ""
        entries.append(("strong", media, f"{row.media_name()} tokens{told}"))
    entries.append(("middle", hues, "text" if row.ids is not None or media else "tokens"))
    if inner:
        entries.append(("faint", inner, "reach of a node over its branches"))
    if row.mask.used < row.mask.total:
        entries.append(("padding", (), "padding"))
    return legend(entries)


def _bars(row: Contents) -> Iterator[Bar]:
    """All nodes with tokens, or that reach over others, in order; narrow ones together."""
    narrow = NARROW * row.mask.total / WIDTH
    growing: dict[int, Bar] = {}
    for node in row.nodes:
        if node.subtree_end == node.start:
            continue
        before = growing.pop(node.depth, None)
        is_narrow = node.subtree_end - node.start < narrow
        if before and not _goes_on(before, node, is_narrow, narrow):
            yield before
            before = None
        nodes = [*before.nodes, node] if before else [node]
        bar = Bar(nodes, nodes[0].start, node.end)
        if is_narrow:
            growing[node.depth] = bar
        else:
            yield bar
    yield from growing.values()


def _goes_on(bar: Bar, node: Node, is_narrow: bool, narrow: float) -> bool:
    is_same = bar.nodes[0].example == node.example
    return is_narrow and is_same and node.start - bar.end < narrow


def _bar(row: Contents, bar: Bar, lane: float) -> str:
    first, total = bar.nodes[0], row.mask.total
    y, height = first.depth * lane, max(lane - 2, lane * 0.8)
    if len(bar.nodes) > 1:
        tokens = sum(node.end - node.start for node in bar.nodes)
        label = f"{row.name(first.example)}: {len(bar.nodes)} nodes of {tokens:,} tokens"
        return _rect("middle", bar.start, bar.end, y, height, total, label)
    label = f"{row.name(first.example)}: {first.end - first.start:,} tokens"
    text = "".join(piece for piece, _ in row.text(first)).strip()
    label += f"\n{shortened(text, HOVER)}" if text else ""
    # A node reaches over its branches, so that it is plain to see whose they are.
    spans = [
        ("faint", first.end, first.subtree_end),
        ("middle", first.start, first.end),
        *(("strong", a, b) for a, b in _joined(row.media_runs(first), total / WIDTH)),
    ]
    return "".join(_rect(shade, a, b, y, height, total, label) for shade, a, b in spans)


def _joined(runs: Sequence[tuple[int, int]], least: float) -> list[tuple[int, int]]:
    """Runs of row positions, those together that are too close to be told apart."""
    found: list[tuple[int, int]] = []
    for a, b in runs:
        if found and a - found[-1][1] < least:
            a = found.pop()[0]
        found.append((a, b))
    return found


def _rect(shade: str, a: int, b: int, y: float, height: float, total: int, label: str) -> str:
    if a >= b:
        return ""
    scale = WIDTH / total
    # Where there is no room for a gap, neighbours touch.
    width = (b - a) * scale
    width = width - GAP if width > 4 * GAP else max(width, 0.5)
    return (
        f'<rect class="{shade}" x="{a * scale:.2f}" y="{y:g}" width="{width:.2f}" '
        f'height="{height:g}"><title>{said(label)}</title></rect>'
    )


def _axis(total: int) -> str:
    """Row positions under the row, in HTML: their size does not depend on the width."""
    ticks = "".join(
        f'<span{_at_the_end(tick, total)} style="left:{tick / total:.3%}">{tick:,}</span>'
        for tick in _ticks(total)
    )
    return f'<div class="axis" aria-hidden="true">{ticks}</div>'


def _at_the_end(tick: int, total: int) -> str:
    return ' class="last"' if tick > 0.97 * total else ""


def _ticks(total: int) -> range:
    """Round row positions, at most `TICKS` of them and the first."""
    step = 1
    while step * TICKS < total:
        step *= 2
    return range(0, total + 1, step)


def mask(row: Contents) -> str:
    """The sampled mask, with the examples along its queries and keys."""
    picture = mask_picture(row.mask, SIDE)
    light = data_uri("image/png", png(picture))
    dark = data_uri("image/png", png(picture, DARK_PALETTE))
    share = percent(row.mask.area / row.mask.total**2, 1)
    exact = ' class="exact"' if row.mask.total <= SIDE else ""
    side = len(picture)
    return (
        f'<div class="map">{_edge(row, is_down=False)}{_edge(row, is_down=True)}'
        '<picture><source media="screen and (prefers-color-scheme: dark)" '
        f'srcset="{dark}"><img{exact} src="{light}" width="{side}" height="{side}" '
        f'alt="Which query sees which key: {share} of all pairs"></picture></div>'
        + _mask_legend(row, np.unique(picture).tolist())
        + '<p class="note">Each line is a query, each column a key.</p>'
    )


def _mask_legend(row: Contents, indices: list[int]) -> str:
    kinds = (
        ("strong", "inside one node"),
        ("soft", "a node to its ancestors"),
        ("middle", f"{row.sees_ahead} that look ahead"),
    )
    seen = [
        [(index - 1) // KINDS for index in indices if index and (index - 1) % KINDS == kind]
        for kind in range(KINDS)
    ]
    found = zip(seen, kinds, strict=True)
    return legend((shade, hues, meaning) for hues, (shade, meaning) in found if hues)


def _edge(row: Contents, is_down: bool) -> str:
    """The examples along a side of the mask."""
    total = row.mask.total
    shapes = "".join(
        f'<rect class="h{root.hue} strong" '
        + (
            f'y="{root.start}" width="1" height='
            if is_down
            else f'x="{root.start}" height="1" width='
        )
        + f'"{root.subtree_end - root.start}"><title>{said(row.name(root.example))}</title></rect>'
        for root in row.roots()
    )
    box, name = (f"1 {total}", "down") if is_down else (f"{total} 1", "across")
    return (
        f'<svg class="{name}" viewBox="0 0 {box}" preserveAspectRatio="none" aria-hidden="true">'
        f"{shapes}</svg>"
    )
