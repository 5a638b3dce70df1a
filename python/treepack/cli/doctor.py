"""``treepack doctor``: what works on this machine."""

from __future__ import annotations

import argparse
import importlib.util
import json
from pathlib import Path
from typing import Any

from treepack._packages import missing
from treepack.cli.arguments import add_command

EXAMPLE = """\
  treepack doctor --json doctor.json"""


def add(commands: Any) -> None:
    """Add the command."""
    parser = add_command(
        commands, "doctor", run, "check attention, compiler and speed on this machine", EXAMPLE
    )
    parser.add_argument("--json", metavar="FILE", help="write all figures there, for bug reports")
    parser.add_argument("--no-speed", action="store_true", help="leave out what is measured")


def run(options: argparse.Namespace) -> None:
    """Print the table; end with 1 if something is wrong."""
    if importlib.util.find_spec("torch") is None:
        raise missing("torch", "treepack doctor", "torch")
    from treepack.check.doctor import doctor

    found = doctor(speed=not options.no_speed)
    if options.json:
        Path(options.json).write_text(json.dumps(found.to_dict(), indent=1) + "\n")
    print(found, flush=True)
    if not found.ok:
        raise SystemExit(1)
