"""The command line: measure, simulate, pack, show, doctor.

It ends with 0; with 1 where the data or the environment is at fault, with 2 where the command is,
and with 130 after Ctrl-C. What is at fault is said in one line.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from treepack.cli import doctor, measure, pack, show, simulate
from treepack.cli.arguments import Parser
from treepack.errors import TreepackError

DESCRIPTION = """\
Pack vision-language training without padding waste: measure a data set once, try budgets on what
was measured, pack it, look at a row.

  treepack measure train.jsonl --processor ./my-model --out costs.parquet
  treepack simulate costs.parquet --budget tokens=16384 --budget patches=65536
  treepack pack costs.parquet --budget tokens=16384 --budget patches=65536 --out packs.parquet
  treepack show train.jsonl --processor ./my-model --row 3
  treepack doctor
"""

COMMANDS = (measure, simulate, pack, show, doctor)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: those after the name of the program; by default those of the process.

    Returns:
        The exit code.
    """
    parser = Parser(prog="treepack", description=DESCRIPTION)
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add(commands)
    options = None
    try:
        options = parser.parse_args(arguments)
        options.run(options)
        sys.stdout.flush()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except KeyboardInterrupt:
        again = getattr(options, "after_interrupt", "")
        print(f"treepack: interrupted{again}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read this has read enough, `head` for one; Python flushes again at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (TreepackError, OSError, ImportError) as error:
        print(f"treepack: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


def _version() -> str:
    import treepack

    return f"treepack {treepack.__version__}"
