"""The figures of the pages, drawn from what the library computes.

    python docs/site/figures.py      # writes docs/figures/*.svg

Text has the colour of the page, also in a dark style; in a file of its own, as a code host shows
it, that of the reader's system.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

import numpy as np
import treepack as tp
from treepack import _core
from treepack._reference.plan import count_pairs
from treepack.viz.picture import HUES

FOLDER = Path(__file__).parents[1] / "figures"
OWN_COLOURS = (
    "<style>svg{color:#1d2129}@media(prefers-color-scheme:dark){svg{color:#e3e6ea}}</style>"
)
"""What a file of its own needs and a page does not."""

WIDTH = 720


class Kind(NamedTuple):
    """A kind of attention call: its letter on the page of the plan, colour and meaning."""

    letter: str
    colour: str
    meaning: str


KINDS = {
    _core.SELF: Kind("S", "#3f68c9", "SELF: a node, and its first child in one piece, causal"),
    _core.CROSS: Kind("C", "#2f9e6e", "CROSS: a later branch to all of its ancestors"),
    _core.ANTI_CAUSAL: Kind("A", "#d9822b", "ANTI_CAUSAL: image tokens that look ahead"),
    _core.ANTI_CAUSAL_GATHERED: Kind("G", "#c2478f", "the same, with text between them"),
}

NODES = ("image, text, image", "branch", "branch", "image, text", "branch", "branch")
"""The nodes of the row of docs/reference/plan.md."""


def draw_mask() -> str:
    """The mask of the row of 13 tokens on the page of the plan, each pair by its call."""
    mask = tp.TreeMask.from_nodes(
        [4, 2, 2, 3, 1, 1], [-1, 0, 0, -1, 3, 3], [[0, 1, 0], [2, 4, 1], [8, 10, 2]], "image_tokens"
    )
    kinds = kinds_of(mask)
    cell, left, top = 28, 190, 44
    parts = [
        square(left + key * cell, top + query * cell, cell, KINDS[int(kind)])
        for (query, key), kind in np.ndenumerate(kinds)
        if kind >= 0
    ]
    side = mask.total * cell
    parts.append(
        f'<rect x="{left}" y="{top}" width="{side}" height="{side}" fill="none" '
        'stroke="currentColor" stroke-opacity=".3"/>'
    )
    parts += node_labels(mask, cell, left, top)
    for place, kind in enumerate(KINDS.values()):
        y = top + side + 34 + place * 26
        parts.append(square(left, y - 16, 22, kind))
        parts.append(text(left + 34, y, kind.meaning))
    return svg(WIDTH, top + side + 126, parts, "Which token of a packed row sees which")


def kinds_of(mask: tp.TreeMask) -> np.ndarray:
    """int64 ``[total, total]``: the kind of the call that computes a pair, -1 for none."""
    entries, host = mask.plan()
    kinds = np.full((mask.total, mask.total), -1)
    header, fields = len(_core.PLAN_HEADER), len(_core.PLAN_FIELDS)
    for call in range(int(host[0])):
        table = host[header + call * fields : header + (call + 1) * fields]
        alone = np.concatenate([[1], host[1:header], table]).astype(np.int32)
        kinds[count_pairs(entries, alone) > 0] = table[0]
    return kinds


def node_labels(mask: tp.TreeMask, cell: int, left: int, top: int) -> Iterator[str]:
    """What each stretch of tokens is, beside its queries and above its keys."""
    nodes = zip(mask.node_start, mask.node_end, mask.node_example, NODES, strict=True)
    for start, end, example, name in nodes:
        colour, length = HUES[int(example)], (end - start) * cell - 4
        yield (
            f'<rect x="{left - 10}" y="{top + start * cell + 2}" width="6" height="{length}" '
            f'rx="3" fill="{colour}"/>'
            f'<rect x="{left + start * cell + 2}" y="{top - 10}" width="{length}" height="6" '
            f'rx="3" fill="{colour}"/>'
        )
        middle = top + (start + end) * cell / 2 + 5
        yield text(left - 20, middle, name, "end")
    side = mask.total * cell
    yield text(left + side / 2, top - 20, "keys", "middle")
    yield text(left - 20, top - 6, "queries", "end")


class Example(NamedTuple):
    """An image of so many tokens, and the tokens of each of its annotations."""

    image: int
    annotations: tuple[int, ...]


EXAMPLES = (
    Example(360, (60, 80, 90, 50)),
    Example(220, (70, 30)),
    Example(340, (110,)),
    Example(300, (40, 70, 30, 60, 45)),
    Example(180, (100, 80, 50)),
)
ROW = 1_200


def draw_rows() -> str:
    """Annotations padded each by itself, and the same as packed message trees."""
    alone = [(i, example) for i, example in enumerate(EXAMPLES) for _ in example.annotations]
    costs = [example.image + sum(example.annotations) for example in EXAMPLES]
    packs = tp.pack({"tokens": costs}, {"tokens": ROW})
    packed = [sorted(int(i) for i in pack) for pack in packs]
    parts, y = [text(0, 18, f"Each annotation alone, padded: {len(alone)} rows")], 30
    seen: dict[int, int] = {}
    for i, example in alone:
        place = seen.setdefault(i, 0)
        seen[i] += 1
        parts += bars(y, [(i, Example(example.image, (example.annotations[place],)))], 10)
        y += 14
    parts.append(text(0, y + 34, f"Packed message trees: {len(packed)} rows"))
    y += 46
    for row in packed:
        parts += bars(y, [(i, EXAMPLES[i]) for i in row], 22)
        y += 28
    y += 20
    legend = (("image tokens", 1.0), ("annotations", 0.5), ("padding", 0.0))
    for place, (name, share) in enumerate(legend):
        x = 200 * place
        parts += [block(x, y - 13, 22, 16, HUES[0], share), text(x + 32, y, name)]
    return svg(WIDTH, y + 12, parts, "Fifteen padded rows, and the same annotations in packed rows")


def bars(y: int, examples: Sequence[tuple[int, Example]], height: int) -> Iterator[str]:
    """One row."""
    scale, at = WIDTH / ROW, 0
    yield block(0, y, WIDTH, height, HUES[0], 0.0)
    for i, example in examples:
        for number, tokens in enumerate((example.image, *example.annotations)):
            share = 0.5 if number else 1.0
            yield block(at * scale, y, tokens * scale - 1, height, HUES[i], share)
            at += tokens


def block(x: float, y: float, width: float, height: float, colour: str, share: float) -> str:
    """A stretch of tokens, or padding where the share is 0."""
    fill, opacity = (colour, share) if share else ("currentColor", 0.09)
    return (
        f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{height}" rx="2" '
        f'fill="{fill}" fill-opacity="{opacity}"/>'
    )


def square(x: float, y: float, size: float, kind: Kind) -> str:
    """A pair, with the letter of its call."""
    middle = f'x="{x + size / 2}" y="{y + size / 2 + 4.5}"'
    return (
        f'<rect x="{x + 1}" y="{y + 1}" width="{size - 2}" height="{size - 2}" rx="3" '
        f'fill="{kind.colour}"/><text {middle} text-anchor="middle" font-size="13" '
        f'fill="#fff">{kind.letter}</text>'
    )


def text(x: float, y: float, words: str, anchor: str = "start") -> str:
    """Words in the colour of the page."""
    return (
        f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-size="16" fill="currentColor">'
        f"{escape(words)}</text>"
    )


def svg(width: int, height: int, parts: Sequence[str], title: str) -> str:
    """The whole figure."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        'font-family="ui-sans-serif, system-ui, sans-serif">'
        f"{OWN_COLOURS}<title>{escape(title)}</title>{''.join(parts)}</svg>\n"
    )


FIGURES: dict[str, Callable[[], str]] = {"mask.svg": draw_mask, "rows.svg": draw_rows}


def main() -> None:
    """Write every figure."""
    FOLDER.mkdir(exist_ok=True)
    for name, draw in FIGURES.items():
        (FOLDER / name).write_text(draw())


if __name__ == "__main__":
    main()
