"""Stops a release whose tag, version, citation and change log do not agree."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def disagreements(tag: str, cargo: str, citation: str, changes: str) -> list[str]:
    """What keeps the tag from being released; empty if nothing does."""
    version = tomllib.loads(cargo)["workspace"]["package"]["version"]
    heading = re.search(r"^## (\S+)(.*)$", changes, re.MULTILINE)
    cited = re.search(r'^version: "?([^"\n]+)"?$', citation, re.MULTILINE)
    checks = {
        f"the tag {tag} is not v{version}, the version of Cargo.toml": tag == f"v{version}",
        f"CITATION.cff does not cite {version}": bool(cited) and cited[1] == version,
        f"CHANGELOG.md does not begin with {version}": bool(heading) and heading[1] == version,
        "CHANGELOG.md calls the version unreleased": bool(heading)
        and "unreleased" not in heading[2],
    }
    return [problem for problem, fine in checks.items() if not fine]


if __name__ == "__main__":
    names = ("Cargo.toml", "CITATION.cff", "CHANGELOG.md")
    if problems := disagreements(sys.argv[1], *((ROOT / n).read_text("utf-8") for n in names)):
        raise SystemExit("\n".join(problems))
