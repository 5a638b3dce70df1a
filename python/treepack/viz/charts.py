"""Small charts as SVG, in the colours of the page."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from treepack.packing.shares import percent
from treepack.viz.colours import HUES
from treepack.viz.markup import legend, said

WIDTH, HEIGHT = 400, 210
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 12, 40
LINES = 4
"""Lines of the grid."""


Show = Callable[[float, int], str]


def number(value: float, digits: int = 0) -> str:
    """A number with so many digits behind the point."""
    return f"{value:,.{digits}f}"


class Series(NamedTuple):
    """A line of a chart, or its bars.

    Attributes:
        name: stands in the legend.
        values: one for each label, ``None`` where there is none.
    """

    name: str
    values: Sequence[float | None]


def line_chart(
    labels: Sequence[str],
    series: Sequence[Series],
    axis: str,
    *,
    show: Show = number,
    digits: int = 0,
    least: float | None = None,
    most: float | None = None,
    marked: int | None = None,
    name: str = "",
) -> str:
    """Lines with a dot for each label, evenly spaced.

    Args:
        labels: along the axis.
        series: the lines.
        axis: what the labels are.
        show: a value as text, with digits behind the point.
        digits: of the values where the pointer is.
        least: bottom of the chart; by default a little below all values.
        most: its top.
        marked: place of a label with a line through it.
        name: what the chart is called.
    """
    known = [value for each in series for value in each.values if value is not None]
    low, high = _range(known, least, most)
    step = (WIDTH - LEFT - RIGHT) / max(len(labels), 1)
    xs = [LEFT + step * (place + 0.5) for place in range(len(labels))]
    parts = [*_grid(low, high, show), *_labels(xs, labels, axis)]
    if marked is not None:
        x = f"{xs[marked]:.1f}"
        parts.append(f'<line class="mark" x1="{x}" x2="{x}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
    for number, each in enumerate(series):
        parts += _line(number, xs, each, labels, (low, high), lambda v: show(v, digits))
    return _svg(parts, f"{name} by {axis}") + _legend(series)


def _line(
    number: int,
    xs: Sequence[float],
    each: Series,
    labels: Sequence[str],
    span: tuple[float, float],
    show: Callable[[float], str],
) -> Iterator[str]:
    hue = number % len(HUES)
    points = [
        (x, _y(value, *span), value, label)
        for x, value, label in zip(xs, each.values, labels, strict=True)
        if value is not None
    ]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _, _ in points)
    yield f'<polyline points="{path}" class="h{hue} line{_again(number)}"/>'
    for x, y, value, label in points:
        name = said(f"{each.name}, {label}: {show(value)}")
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" class="h{hue} strong">'
        yield f"<title>{name}</title></circle>"


def _again(number: int) -> str:
    """Class of a line whose hue another line has: it is dashed."""
    return " again" if number >= len(HUES) else ""


def histogram(shares: Sequence[float], end: int, axis: str, name: str = "") -> str:
    """Bars of equal width from 0 to ``end``.

    Args:
        shares: of each interval.
        end: of the last one.
        axis: what is counted.
        name: what the chart is called.
    """
    _, high = _range([*shares, 1e-9], 0.0, None)
    step = (WIDTH - LEFT - RIGHT) / len(shares)
    parts = list(_grid(0.0, high, percent))
    for place, share in enumerate(shares):
        y = _y(share, 0.0, high)
        a, b = end * place / len(shares), end * (place + 1) / len(shares)
        parts.append(
            f'<rect x="{LEFT + step * place + 0.5:.1f}" y="{y:.1f}" width="{step - 1:.1f}" '
            f'height="{HEIGHT - BOTTOM - y:.1f}" class="h0 strong">'
            f"<title>{a:,.0f} to {b:,.0f}: {percent(share, 1)}</title></rect>"
        )
    xs = [LEFT + (WIDTH - LEFT - RIGHT) * quarter / 4 for quarter in range(5)]
    labels = [f"{end * quarter // 4:,}" for quarter in range(5)]
    # The last label would stand half outside.
    xs[-1] -= 3.0 * len(labels[-1]) - RIGHT
    return _svg([*parts, *_labels(xs, labels, axis)], f"{name} by {axis}")


def _range(values: Sequence[float], least: float | None, most: float | None) -> tuple[float, float]:
    """Ends of the chart at round numbers around all values, where they are not given."""
    low = min(values, default=0.0) if least is None else least
    high = max(values, default=1.0) if most is None else most
    step = _round_step((high - low or abs(high) * 0.1 or 1.0) / LINES)
    if most is None:
        high = step * math.ceil(high / step + 0.05)
    if least is None:
        low = step * math.floor(low / step - 0.05)
    return low, high


def _round_step(step: float) -> float:
    """The next larger of 1, 2, 5 and 10 times a power of 10."""
    power = 10.0 ** math.floor(math.log10(step))
    return power * next(factor for factor in (1, 2, 5, 10) if factor * power >= step * 0.999)


def _y(value: float, low: float, high: float) -> float:
    return TOP + (HEIGHT - TOP - BOTTOM) * (1 - (value - low) / (high - low))


def _grid(low: float, high: float, show: Show) -> Iterator[str]:
    step = _round_step((high - low) / (LINES + 1))
    # As many digits as tell the lines apart, of percent two less.
    digits = max(0, -math.floor(math.log10(step * (100 if show is percent else 1)) + 1e-9))
    # From the top, which is round even where the bottom is not.
    for number in range(int((high - low) / step + 1e-6) + 1):
        value = high - number * step
        y = f"{_y(value, low, high):.1f}"
        yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>'
        label = show(value, digits)
        yield f'<text x="{LEFT - 6}" y="{y}" dy="0.32em" text-anchor="end">{label}</text>'


def _labels(xs: Sequence[float], labels: Sequence[str], axis: str) -> Iterator[str]:
    every = max(1, -(-len(labels) // 8))
    for x, label in list(zip(xs, labels, strict=True))[::every]:
        yield (
            f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">'
            f"{said(label)}</text>"
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    yield f'<text x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{said(axis)}</text>'


def _svg(parts: Sequence[str], name: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{said(name)}">'
        f"{''.join(parts)}</svg>"
    )


def _legend(series: Sequence[Series]) -> str:
    if len(series) < 2:
        return ""
    return legend(
        (f"strong{_again(number)}", [number % len(HUES)], each.name)
        for number, each in enumerate(series)
    )
