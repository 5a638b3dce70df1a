"""Texts, legends and folded lists as HTML, and the frame of a page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape

from treepack.viz.style import BASE

CONTROLS = {
    **{code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n\r"},
    0x7F: 0x2421,
    **dict.fromkeys(range(0x80, 0xA0), 0xFFFD),
}
"""Control characters, which a page must not hold, and signs for them."""

SURROGATES = re.compile("[\ud800-\udfff]")

STRIPES = 4
"""Hues that a legend shows of each kind."""


def said(text: object) -> str:
    """What people or models wrote, as text of a page or of an attribute.

    Args:
        text: of any kind; control characters and halves of characters become visible signs.
    """
    plain = str(text).translate(CONTROLS)
    if SURROGATES.search(plain):
        plain = plain.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return escape(plain)


def shortened(text: str, most: int) -> str:
    """The text, or as much of its begin as has room, with an ellipsis."""
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def fold(items: Sequence[str], first: int) -> str:
    """A list of which the first items are seen, and the others unfold without a script.

    Args:
        items: HTML of each.
        first: how many are seen; one more if nothing else were left.
    """
    if len(items) <= first + 1:
        return "".join(items)
    rest = items[first:]
    hidden = (
        f"<details><summary>and {len(rest):,} more</summary><div>{''.join(rest)}</div></details>"
    )
    return "".join(items[:first]) + hidden


def legend(entries: Iterable[tuple[str, Sequence[int], str]]) -> str:
    """What colours mean, each shown in those hues that the picture has.

    Args:
        entries: class of the shade, numbers of the hues in order, and the meaning.
    """
    items = [
        f'<li><span class="key">{_stripes(shade, hues)}</span>{said(meaning)}</li>'
        for shade, hues, meaning in entries
    ]
    return f'<ul class="legend">{"".join(items)}</ul>' if items else ""


def _stripes(shade: str, hues: Sequence[int]) -> str:
    names = [f"h{hue} {shade}" for hue in dict.fromkeys(hues)][:STRIPES] or [shade]
    return "".join(f'<i class="{name}"></i>' for name in names)


def document(title: str, style: str, body: str) -> str:
    """A page that needs nothing from outside.

    Args:
        title: as text.
        style: CSS, after that of every page.
        body: HTML.
    """
    head = (
        '<meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{said(title)}</title><style>{BASE}{style}</style>"
    )
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}</head>'
        f"<body><main>{body}</main></body></html>\n"
    )
