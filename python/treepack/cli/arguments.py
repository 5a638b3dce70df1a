"""What the commands' arguments have in common."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from typing import Any, NoReturn

Budgets = dict[str, int]


class Parser(argparse.ArgumentParser):
    """A parser whose descriptions keep their lines, and whose errors are one line."""

    def __init__(self, *args: Any, **options: Any) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*args, **options)

    def error(self, message: str) -> NoReturn:
        """End with 2, and one line that says what is wrong with the command."""
        self.exit(2, f"treepack: error: {message}; see {self.prog} --help\n")


def add_command(
    commands: Any, name: str, run: Any, what: str, example: str
) -> argparse.ArgumentParser:
    """A parser of one command, with an example below its help."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=what, description=f"{what[0].upper()}{what[1:]}.", epilog=f"example:\n{example}"
    )
    parser.set_defaults(run=run, parser=parser)
    return parser


def add_budgets(parser: argparse.ArgumentParser, is_required: bool, more: str = "") -> None:
    """The option ``--budget NAME=NUMBER``, once for each."""
    parser.add_argument(
        "--budget",
        action="append",
        type=budget,
        required=is_required,
        default=None if is_required else [],
        metavar="NAME=NUMBER",
        help=f"capacity of a row, once for each budget{more}",
    )


def add_records(parser: argparse.ArgumentParser) -> None:
    """What says which records are read, and for which model."""
    parser.add_argument("records", nargs="+", help="files of records, as docs/data.md has them")
    parser.add_argument("--images", help="folder that relative paths of media start from")
    parser.add_argument(
        "--processor", required=True, help="folder, or name on the Hub, of the model's processor"
    )
    parser.add_argument("--family", help="model family; found by the processor's class")
    parser.add_argument(
        "--by-question", action="store_true", help="one question to an example (PaliGemma)"
    )


def budget(text: str) -> tuple[str, list[int]]:
    """``tokens=16384``, or several numbers with commas between."""
    name, equals, values = text.partition("=")
    try:
        numbers = [int(value) for value in values.split(",")]
    except ValueError:
        numbers = []
    if not name.strip() or not equals or not numbers or min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=NUMBER, such as tokens=16384")
    return name.strip(), numbers


def whole_numbers(text: str) -> list[int]:
    """Numbers of 1 or more with commas between."""
    try:
        numbers = [int(value) for value in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers, such as 16,48")
    return numbers


def budget_sets(options: argparse.Namespace) -> list[Budgets]:
    """Every combination of the values that were given for the budgets."""
    given: Sequence[tuple[str, list[int]]] = options.budget
    names = [name for name, _ in given]
    if len(set(names)) < len(names):
        options.parser.error(f"a budget is given twice: {names}")
    values = itertools.product(*(numbers for _, numbers in given))
    return [dict(zip(names, each, strict=True)) for each in values]


def one_budget_set(options: argparse.Namespace) -> Budgets:
    """The budgets, of which each has one value."""
    sets = budget_sets(options)
    if len(sets) > 1:
        options.parser.error("give one number for each budget")
    return sets[0]
