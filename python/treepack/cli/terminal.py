"""Reports on a terminal, with styles unless ``NO_COLOR`` is set; plain text elsewhere."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Iterable

from treepack.packing.report import Table, plain

WIDEST = 100


def show_report(head: str, tables: Iterable[Table], advice: Iterable[str] = ()) -> None:
    """Print a paragraph, tables, and advice.

    Args:
        head: what stands first.
        tables: in order.
        advice: sentences.
    """
    width = min(shutil.get_terminal_size((80, 24)).columns, WIDEST)
    is_styled = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    if is_styled and _show_with_rich(head, tables, list(advice), width):
        return
    parts = [textwrap.fill(head, width, break_long_words=False), *map(plain, tables)]
    told = [
        textwrap.fill(text, width, initial_indent="- ", subsequent_indent="  ") for text in advice
    ]
    if told:
        parts.append("\n".join(["Advice", *told]))
    print("\n\n".join(parts))


def _show_with_rich(head: str, tables: Iterable[Table], advice: list[str], width: int) -> bool:
    """Whether rich is there to show it."""
    try:
        from rich import box
        from rich.console import Console
        from rich.table import Table as RichTable
        from rich.text import Text
    except ImportError:
        return False
    console = Console(width=width, highlight=False)
    console.print(Text(head))
    for table in tables:
        shown = RichTable(title=table.title, title_justify="left", box=box.SIMPLE_HEAD)
        for name in table.header:
            shown.add_column(name.replace(" ", "\n"), justify="right")
        for line in table.lines:
            shown.add_row(*line)
        console.print(shown)
    for text in advice:
        console.print(Text(f"• {text}"))
    return True
