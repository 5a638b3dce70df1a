"""The page of the command line, from what ``--help`` says."""

from __future__ import annotations

import argparse

HEAD = """\
# Command line

`treepack` and `python -m treepack` are the same. A command ends with 0; with 1 where the data or
the environment is at fault, with 2 where the command is, and with 130 after Ctrl-C.
"""


def page() -> str:
    """One section for each command, its help as it is printed."""
    from treepack.cli import COMMANDS
    from treepack.cli.arguments import Parser

    parser = Parser(prog="treepack")
    subparsers = parser.add_subparsers()
    for command in COMMANDS:
        command.add(subparsers)
    parts = [HEAD]
    for name, command_parser in subparsers.choices.items():
        command_parser.formatter_class = _wide(command_parser.formatter_class)
        text = command_parser.format_help().rstrip()
        parts.append(f"## treepack {name}\n\n```text\n{text}\n```\n")
    return "\n".join(parts)


def _wide(formatter: type[argparse.HelpFormatter]) -> type[argparse.HelpFormatter]:
    class Wide(formatter):  # type: ignore[misc, valid-type]
        def __init__(self, prog: str) -> None:
            super().__init__(prog, width=88)

    return Wide
