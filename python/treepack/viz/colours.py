"""The colours of the pages, on light and on dark screens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

HUES = ("#3f68c9", "#d0761f", "#2f9e6e", "#c2478f", "#7b5cc4", "#1f95a8", "#ab8922", "#c9504a")
"""One colour for each example of a row, starting over after the last."""

READABLE = 4.6
"""Contrast of text, a little more than the 4.5 of WCAG 2.2, level AA."""

BLACK, WHITE = "#000000", "#ffffff"


class Hue(NamedTuple):
    """The shades of a hue.

    Attributes:
        strong: of image tokens, and of pairs inside one node.
        middle: of text tokens, and of pairs with a later token.
        soft: of pairs of a node and its ancestors.
        faint: of the stretch that a node reaches over.
        word: of text.
    """

    strong: str
    middle: str
    soft: str
    faint: str
    word: str


class Theme(NamedTuple):
    """The colours of a page.

    Attributes:
        ink: of text.
        quiet: of text that matters less.
        paper: behind everything.
        card: behind pictures and what stands out.
        line: between things.
        fill: of the bars of budgets.
        hues: shades of each of `HUES`.
    """

    ink: str
    quiet: str
    paper: str
    card: str
    line: str
    fill: str
    hues: tuple[Hue, ...]

    def variables(self) -> str:
        """The theme as CSS variables."""
        named = {name: getattr(self, name) for name in self._fields[:-1]}
        for number, hue in enumerate(self.hues):
            named |= {f"h{number}-{name}": shade for name, shade in hue._asdict().items()}
        return " ".join(f"--{name}: {value};" for name, value in named.items())


def contrast(one: str, other: str) -> float:
    """Contrast of two hex colours, from 1 to 21.

    Source:
        WCAG 2.2, contrast ratio and relative luminance.
    """
    low, high = sorted(map(_luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def mix(colour: str, towards: str, share: float) -> str:
    """A hex colour with this share of another."""
    pairs = zip(_channels(colour), _channels(towards), strict=True)
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in pairs)


def _channels(colour: str) -> Iterator[int]:
    return (int(colour[i : i + 2], 16) for i in (1, 3, 5))


def _luminance(colour: str) -> float:
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for c in (channel / 255 for channel in _channels(colour))
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _readable(colour: str, paper: str, towards: str) -> str:
    """The colour, mixed with just so much of another one that it can be read on the paper."""
    shares = (step / 50 for step in range(51))
    shades = (mix(colour, towards, share) for share in shares)
    return next(shade for shade in shades if contrast(shade, paper) >= READABLE)


def _hue(colour: str, paper: str, towards: str, faint: float) -> Hue:
    return Hue(
        strong=colour,
        middle=mix(colour, paper, 0.42),
        soft=mix(colour, paper, 0.6),
        faint=mix(colour, paper, faint),
        word=_readable(colour, paper, towards),
    )


LIGHT = Theme(
    ink="#1d2129",
    quiet="#5f6775",
    paper="#ffffff",
    card="#f4f5f7",
    line="#e1e4ea",
    fill="#475569",
    hues=tuple(_hue(colour, WHITE, BLACK, 0.82) for colour in HUES),
)

DARK = Theme(
    ink="#e6e8ec",
    quiet="#9aa3b2",
    paper="#14171c",
    card="#1d2128",
    line="#2e343f",
    fill="#a9b4c6",
    hues=tuple(_hue(mix(colour, WHITE, 0.22), "#14171c", WHITE, 0.74) for colour in HUES),
)
