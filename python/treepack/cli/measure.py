"""``treepack measure``: records in, a table of costs out."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from treepack.cli.arguments import add_command, add_records
from treepack.cli.terminal import show_report
from treepack.packing.report import Table

if TYPE_CHECKING:
    from treepack.sources.costs import CostTable

EXAMPLE = """\
  treepack measure train.jsonl --processor ./my-model --out costs.parquet

The table has a line for each example: key, name, tokens and the like, branches, targets, pairs
(of query and key that attention computes). A run that is cut off goes on where it stopped."""


def add(commands: Any) -> None:
    """Add the command."""
    parser = add_command(
        commands, "measure", run, "measure what every example costs; no pixel is decoded", EXAMPLE
    )
    add_records(parser)
    parser.set_defaults(after_interrupt="; the same command goes on from there")
    parser.add_argument("--out", required=True, help="Parquet file for the table")
    parser.add_argument("--workers", type=int, help="processes; by default one for each core")
    parser.add_argument(
        "--on-error",
        choices=["raise", "skip"],
        default="raise",
        help="what becomes of examples that cannot be measured; skip leaves them without costs",
    )
    parser.add_argument("--ray", action="store_true", help="measure on a Ray cluster")
    parser.add_argument("--no-progress", action="store_true", help="show no bar")


def run(options: argparse.Namespace) -> None:
    """Measure, and say what was found."""
    from treepack.cli.records import find_family, open_records
    from treepack.measuring.measure import measure
    from treepack.sources.costs.parquet import pyarrow

    out = Path(options.out)
    if not out.parent.is_dir():
        raise FileNotFoundError(f"{out}: there is no folder {out.parent}")
    pyarrow(f"writing {out}")
    source, family = open_records(options, options.on_error), find_family(options)
    start = time.perf_counter()
    table = measure(
        source,
        family,
        workers=options.workers,
        out=out,
        on_error=options.on_error,
        progress=False if options.no_progress else None,
        ray=options.ray,
    )
    seconds = time.perf_counter() - start
    parts = [f"{out}: {len(table):,} examples in {seconds:.1f} s."]
    if source.skipped:
        records = "record" if source.skipped == 1 else "records"
        parts.append(f"{source.skipped:,} {records} made no sense, left out.")
    if len(table.unmeasured):
        first = int(table.unmeasured[0])
        parts.append(
            f"{len(table.unmeasured):,} could not be measured (column error), the first of them: "
            f"{table.reasons.get(first, f'example {first}')}"
        )
    show_report(" ".join(parts), [summary(table)])


def summary(table: CostTable) -> Table:
    """Means, quantiles and sums of the costs."""
    lines = []
    for name, column in table.columns.items():
        known = column[column >= 0]
        if not len(known):
            continue
        ordered = sorted(known.tolist())
        numbers = [
            f"{known.mean():,.1f}",
            *(f"{ordered[int(share * (len(ordered) - 1))]:,}" for share in (0.5, 0.99)),
            f"{ordered[-1]:,}",
            f"{sum(ordered):,}",
        ]
        lines.append([name, *numbers])
    return Table("Of an example", ["column", "mean", "median", "99 %", "most", "sum"], lines)
