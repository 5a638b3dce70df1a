"""``treepack pack``: a table of costs in, the packs of a whole data set out."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from treepack.cli.arguments import add_budgets, add_command, one_budget_set
from treepack.errors import CostError

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
    parser.add_argument("--early", action="store_true", help="let full packs go before the pool is")
    parser.add_argument("--effort", choices=["fast", "best"], default="fast")
    parser.add_argument("--oversize", choices=["raise", "drop", "alone"], default="raise")
    parser.add_argument("--no-progress", action="store_true", help="show no bar")


def run(options: argparse.Namespace) -> None:
    """Pack, and say what came of it."""
    import treepack
    from treepack.sources.costs import read

    budgets, out = one_budget_set(options), Path(options.out)
    pack = getattr(treepack, "pack", None)
    if pack is None:
        raise CostError("this build of treepack does not pack offline; use PackedDataset(costs=)")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"{out}: there is no folder {out.parent}")
    names = list(budgets) if options.costs.endswith(".npy") else None
    settings = {"order": options.order, "seed": options.seed, "oversize": options.oversize}
    settings |= {"window": options.window} if options.window else {}
    packs = pack(
        read(options.costs, names),
        budgets,
        early=options.early,
        effort=options.effort,
        progress=False if options.no_progress else None,
        **settings,
    )
    packs.save(out)
    print(f"{out}: {packs}")
