"""Prints constraints that hold packages at the lowest version pyproject.toml allows."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def lowest(names: list[str], project: dict[str, object]) -> list[str]:
    """One constraint for each name: its bound, with any patch of it."""
    extras = project["optional-dependencies"].values()
    required = [*project["dependencies"], *(line for extra in extras for line in extra)]
    bounds = [re.fullmatch(r"([\w.-]+)>=([\d.]+)(?:,.*)?", line) for line in required]
    found = {bound[1]: bound[2] for bound in bounds if bound}
    if missing := set(names) - set(found):
        raise SystemExit(f"pyproject.toml sets no lower bound for {', '.join(sorted(missing))}")
    return [f"{name}=={found[name]}.*" for name in names]


if __name__ == "__main__":
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    print(*lowest(sys.argv[1:], settings["project"]), sep="\n")
