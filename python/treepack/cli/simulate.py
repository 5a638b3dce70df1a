"""``treepack simulate``: a table of costs in, what packing would do with it out."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from treepack.cli.arguments import add_budgets, add_command, budget_sets, whole_numbers
from treepack.cli.terminal import show_report

if TYPE_CHECKING:
    from treepack.packing.advice import Advice

EXAMPLE = """\
  treepack simulate costs.parquet --budget tokens=16384 --budget patches=65536
  treepack simulate trace.csv --budget tokens=8192,16384 --pool 32,48 --json
  treepack simulate --mixture sft --page simulation.html

Costs are a table of `treepack measure`, or any .parquet, .csv, .jsonl or .npy file of integers."""

DRAWN = 20_000
"""Examples of a mixture."""


def add(commands: Any) -> None:
    """Add the command."""
    parser = add_command(
        commands, "simulate", run, "try pool sizes and budgets, and say what to change", EXAMPLE
    )
    parser.add_argument("costs", nargs="?", help="file of costs")
    parser.add_argument(
        "--mixture", choices=["sft", "image", "video"], help="a built-in mixture, without a file"
    )
    add_budgets(parser, False, "; several numbers (8192,16384) are compared")
    parser.add_argument("--pool", type=whole_numbers, help="pool sizes, such as 16,48")
    parser.add_argument("--ranks", type=whole_numbers, help="numbers of ranks, such as 8,64")
    parser.add_argument("--seed", type=int, default=0, help="of the order and the sample")
    parser.add_argument(
        "--sample", type=int, metavar="N", help="examples that are packed; 0 packs all"
    )
    parser.add_argument(
        "--oversize",
        choices=["drop", "split"],
        default="drop",
        help="examples over a budget; split needs a table of `treepack measure`",
    )
    parser.add_argument("--early", action="store_true", help="let full packs go before the pool is")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--page", metavar="FILE", help="write a page with plots")


def run(options: argparse.Namespace) -> None:
    """Simulate, and report."""
    from treepack.packing.report import summary, tables
    from treepack.packing.simulation import POOL_SIZES, RANKS, SAMPLE, simulate

    if (options.costs is None) == (options.mixture is None):
        options.parser.error("give a file of costs, or --mixture")
    costs, name, sets = _costs(options)
    found = simulate(
        costs,
        sets,
        pool_sizes=options.pool or POOL_SIZES,
        ranks=options.ranks or RANKS,
        seed=options.seed,
        sample=SAMPLE if options.sample is None else (options.sample or None),
        packer={"early": True} if options.early else None,
        oversize=options.oversize,
    )
    if options.page:
        from treepack.viz.simulation import save_simulation

        save_simulation(found, options.page, title=f"Packing {name}")
    told = found.to_dict()
    if options.json:
        print(json.dumps(told))
        return
    show_report(summary(told), tables(told), [_named(each, options.costs) for each in found.advice])
    if options.page:
        print(f"\n{options.page} has the plots.")


def _named(advice: Advice, path: str | None) -> str:
    """Advice with the names of the examples that it is about, where the table has them."""
    if advice.kind != "oversize" or not path or not path.endswith(".parquet"):
        return advice.text
    from treepack.sources.costs.files import names_of

    indices = advice.numbers["largest"]
    names = names_of(path, indices)
    says_more = names and names != [str(index) for index in indices]
    return f"{advice.text} They are {', '.join(names)}." if says_more else advice.text


def _costs(options: argparse.Namespace) -> tuple[Any, str, list[dict[str, int]]]:
    """What is packed, what it is called, and the budgets."""
    if options.mixture:
        from treepack.packing import mixture_sft

        sets = budget_sets(options) if options.budget else [dict(mixture_sft.BUDGETS)]
        n = options.sample or DRAWN
        stream = mixture_sft.generate(options.mixture, n, options.seed)
        return stream, f"the mixture {options.mixture}", sets
    from treepack.sources.costs import read

    if not options.budget:
        options.parser.error("give a --budget, such as --budget tokens=16384")
    sets = budget_sets(options)
    names = list(sets[0]) if options.costs.endswith(".npy") else None
    return read(options.costs, names), options.costs, sets
