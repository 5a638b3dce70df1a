"""``treepack pack``: a table of costs in, the packs of a whole data set out."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from treepack.cli.arguments import add_budgets, add_command, one_budget_set

if TYPE_CHECKING:
    from treepack.packing.packs import Packs

EXAMPLE = """\
  treepack pack costs.parquet --budget tokens=16384 --budget patches=65536 --out packs.parquet"""


def add(commands: Any) -> None:
    """Add the command."""
    parser = add_command(commands, "pack", run, "pack a whole data set ahead of training", EXAMPLE)
    parser.add_argument("costs", help="file of costs, as for simulate")
    add_budgets(parser, True)
    parser.add_argument("--out", required=True, help="file for the packs")
    parser.add_argument("--order", choices=["shuffled", "kept"], default="shuffled")
    parser.add_argument("--window", type=int, metavar="N", help="examples packed together")
    parser.add_argument("--seed", type=int, default=0, help="of the order")
    parser.add_argument(
        "--early",
        action=argparse.BooleanOptionalAction,
        help="more searches, for fuller packs; the default with several budgets",
    )
    parser.add_argument("--effort", choices=["fast", "best"], default="fast")
    parser.add_argument(
        "--oversize",
        choices=["raise", "drop", "alone", "split"],
        default="raise",
        help="examples over a budget; split needs a table of `treepack measure`",
    )
    parser.add_argument(
        "--on-error",
        choices=["raise", "skip"],
        default="raise",
        help="examples without costs: stop, or leave them out",
    )
    parser.add_argument("--json", action="store_true", help="print one object and nothing else")
    parser.add_argument("--no-progress", action="store_true", help="show no bar")


def run(options: argparse.Namespace) -> None:
    """Pack, and say what came of it."""
    import treepack
    from treepack.sources.costs import read

    budgets, out = one_budget_set(options), Path(options.out)
    if not out.parent.is_dir():
        raise FileNotFoundError(f"{out}: there is no folder {out.parent}")
    names = list(budgets) if options.costs.endswith(".npy") else None
    settings = {"order": options.order, "seed": options.seed, "oversize": options.oversize}
    settings |= {"window": options.window} if options.window else {}
    packs = treepack.pack(
        read(options.costs, names),
        budgets,
        early=options.early,
        effort=options.effort,
        on_error=options.on_error,
        progress=not options.no_progress and sys.stderr.isatty(),
        **settings,
    )
    packs.save(out)
    if options.json:
        print(json.dumps({"settings": packs.settings, "statistics": packs.statistics}))
    else:
        print(f"{out}: {_summary(packs)}")


def _summary(packs: Packs) -> str:
    from treepack.packing.shares import percent

    found = packs.statistics
    fill = ", ".join(f"{name} {percent(share, 1)} full" for name, share in found["fill"].items())
    told = f"{len(packs):,} packs of {len(packs.members):,} examples; {fill}"
    told += f"; {found['rows_per_bound']:.4f} times the fewest rows that the volume allows"
    left = [f"{found[name]:,} {name}" for name in ("dropped", "alone", "skipped") if found[name]]
    return "; ".join([told, *left])
