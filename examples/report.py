"""What a run took, as one table, and the bar that shows it at work."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from treepack.packing.shares import percent

LEARNING_RATE = 1e-3
CAPTION = (
    "(a) one annotation a sequence, stock transformers, padded to the token budget or to the "
    "longest of a batch; (b) message trees packed by treepack. An optimiser step has the same "
    "annotations in both. The largest loss difference is that of any annotation between (a) and "
    "(b), at the weights from which both start."
)


@dataclass
class Run:
    """Counts of one epoch.

    Attributes:
        name: heading of its column.
        capacity: tokens that a sequence has room for; ``None`` for what it was padded to.
        loss: mean over all annotations after the epoch.
    """

    name: str
    capacity: int | None = None
    sequences: int = 0
    annotations: int = 0
    tokens: int = 0
    useful: int = 0
    visual: int = 0
    logits: int = 0
    steps: int = 0
    loss: float = math.nan
    seconds: float = 0.0

    @property
    def room(self) -> int:
        """Tokens that would fit."""
        return self.capacity * self.sequences if self.capacity else self.tokens


def progress() -> Progress:
    """A bar for each phase; it counts annotations."""
    return Progress(
        TextColumn("{task.description:<32}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )


def table(runs: Sequence[Run], budgets: Mapping[str, int], difference: float) -> Table:
    """One column for each run, the packed one last."""
    grid = Table(box=box.SIMPLE_HEAD, caption=CAPTION, caption_justify="left", width=78)
    grid.add_column("one epoch")
    for run in runs:
        grid.add_column(run.name, justify="right")
    for label, cells in _lines(runs, budgets):
        grid.add_row(label, *cells)
    empty = [""] * (len(runs) - 1)
    grid.add_row("largest loss difference", *empty, f"{difference:.1e}")
    return grid


def _lines(runs: Sequence[Run], budgets: Mapping[str, int]) -> list[tuple[str, list[str]]]:
    unit = next(name for name in budgets if name != "tokens")

    def row(label: str, cell: Callable[[Run], str]) -> tuple[str, list[str]]:
        return label, [cell(run) for run in runs]

    return [
        row("sequences", lambda r: f"{r.sequences:,}"),
        row("LLM tokens computed", lambda r: f"{r.tokens:,}"),
        row(f"{unit} encoded", lambda r: f"{r.visual:,}"),
        row("annotations per sequence", lambda r: f"{r.annotations / r.sequences:.1f}"),
        row("fill: tokens", lambda r: percent(r.useful / r.room)),
        row(f"fill: {unit}", lambda r: percent(r.visual / r.sequences / budgets[unit])),
        row("logits computed", lambda r: f"{r.logits:,}"),
        row("optimiser steps", lambda r: f"{r.steps:,}"),
        row("mean loss afterwards", lambda r: f"{r.loss:.3f}"),
        row("seconds", lambda r: f"{r.seconds:.1f}"),
    ]
