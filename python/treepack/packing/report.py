"""The report of a simulation as tables of text, 80 columns wide."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from treepack.packing.shares import percent

WIDTH = 80


class Table(NamedTuple):
    """A table of texts.

    Attributes:
        title: one line above it.
        header: of each column; a blank begins a new line.
        lines: texts by line and column.
    """

    title: str
    header: list[str]
    lines: list[list[str]]


def report(found: Mapping[str, Any], width: int = WIDTH) -> str:
    """Everything that a simulation found, as plain text.

    Args:
        found: from ``Simulation.to_dict()``.
        width: of the terminal, in characters.
    """
    advice = [
        textwrap.fill(each["text"], width, initial_indent="- ", subsequent_indent="  ")
        for each in found["advice"]
    ]
    parts = [textwrap.fill(summary(found), width), *map(plain, tables(found))]
    return "\n\n".join([*parts, "\n".join(["Advice", *advice])])


def summary(found: Mapping[str, Any]) -> str:
    """What was packed, in one or two sentences."""
    text = f"{found['examples']:,} examples"
    for count, what in (("oversize", "over a budget"), ("unmeasured", "without costs")):
        text += f", {found[count]:,} {what}" if found[count] else ""
    if found["split"]:
        text += f", {found['split']:,} of them split"
    if found["sampling_error"]:
        text += (
            f"; {found['simulated']:,} of them, drawn at random, are packed here, so numbers of "
            f"rows are within {percent(found['sampling_error'], 1)} of those of all (95 % "
            "confidence)"
        )
    fitting = found["examples"] - found["oversize"] - found["unmeasured"]
    if found["simulated"] > fitting:
        text += (
            f"; since they are few, each is packed {found['simulated'] // fitting} times, in "
            "different orders"
        )
    return f"{text}."


def tables(found: Mapping[str, Any]) -> Iterator[Table]:
    """Two tables for each set of budgets, a line for each pool size, and that of other budgets."""
    sets = [outcome["budgets"] for outcome in found["outcomes"]]
    for budgets in [each for place, each in enumerate(sets) if each not in sets[:place]]:
        outcomes = [o for o in found["outcomes"] if o["budgets"] == budgets]
        shown = ", ".join(f"{name}={value:,}" for name, value in budgets.items())
        yield _rows(shown, outcomes)
        yield _waits(outcomes)
    if found["frontier"]:
        yield _frontier(found["frontier"])


def _rows(budgets: str, outcomes: Sequence[Mapping[str, Any]]) -> Table:
    first = outcomes[0]
    has_branches = first["branches_a_row"] is not None
    header = ["pool", "rows", "rows /bound", "rows /million", "examples /row"]
    header += ["branches /row"] if has_branches else []
    header += [f"{name} full" for name in first["fill"]]
    lines = [
        [
            f"{o['pool_size']:,}",
            f"{o['rows']:,}",
            f"{o['over_bound']:.4f}",
            f"{o['packs_per_million']:,.0f}",
            f"{o['examples_a_row']:.2f}",
            *([f"{o['branches_a_row']:.1f}"] if has_branches else []),
            *(percent(fill, 1) for fill in o["fill"].values()),
        ]
        for o in outcomes
    ]
    return Table(f"Rows of {budgets}", header, lines)


def _waits(outcomes: Sequence[Mapping[str, Any]]) -> Table:
    first = outcomes[0]
    known = [ranks for ranks, share in first["imbalance"].items() if share is not None]
    header = ["pool", "wait mean", "wait p99", "wait max"]
    header += [f"{name} waiting" for name in first["resident"]]
    header += [f"{ranks} ranks" for ranks in known]
    lines = [
        [
            f"{o['pool_size']:,}",
            f"{o['wait_mean']:.1f}",
            f"{o['wait_p99']:,}",
            f"{o['wait_max']:,}",
            *(f"{value:,.0f}" for value in o["resident"].values()),
            *(_share(o["imbalance"][ranks]) for ranks in known),
        ]
        for o in outcomes
    ]
    title = "Waits in packs, what waits in the pool"
    return Table(title + (", imbalance of a step" if known else ""), header, lines)


def _share(share: float | None) -> str:
    return "-" if share is None else percent(share, 1)


def _frontier(points: Sequence[Mapping[str, Any]]) -> Table:
    header = [points[0]["budget"], "examples /row", *(f"{name} full" for name in points[0]["fill"])]
    lines = [
        [
            f"{point['value']:,}",
            f"{point['examples_a_row']:.2f}",
            *(percent(fill) for fill in point["fill"].values()),
        ]
        for point in points
    ]
    return Table(f"With other budgets of {points[0]['budget']}, pool 48", header, lines)


def plain(table: Table) -> str:
    """A table as text, numbers to the right."""
    heads = [name.split(" ") for name in table.header]
    height = max(map(len, heads))
    # Headers of fewer lines stand at the bottom.
    head = [[""] * (height - len(parts)) + parts for parts in heads]
    lines = [*zip(*head, strict=True), *table.lines]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    texts = [
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in lines
    ]
    return "\n".join([table.title, *texts[:height], rule, *texts[height:]])
