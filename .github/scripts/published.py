"""Gives what PyPI shows the address of the repository: links of the README, project URLs.

A clone does not know where it is hosted, and on PyPI relative links lead nowhere. The workflows
know the address, and run this before they build.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def absolute_links(readme: str, blob: str) -> str:
    """The README whose relative links begin at ``blob``, a URL without a slash at its end."""
    return re.sub(r"\]\((?!https?:|#|mailto:)([^)\s]+)\)", rf"]({blob}/\1)", readme)


def with_urls(settings: str, home: str) -> str:
    """The text of pyproject.toml with ``[project.urls]``."""
    urls = {
        "Repository": home,
        "Documentation": f"{home}/blob/HEAD/docs/index.md",
        "Changelog": f"{home}/blob/HEAD/CHANGELOG.md",
        "Issues": f"{home}/issues",
    }
    table = "".join(f'{name} = "{url}"\n' for name, url in urls.items())
    return settings.replace("[project.scripts]", f"[project.urls]\n{table}\n[project.scripts]")


def main() -> None:
    """Rewrite both files in place."""
    home = f"{os.environ['GITHUB_SERVER_URL']}/{os.environ['GITHUB_REPOSITORY']}"
    readme, settings = ROOT / "README.md", ROOT / "pyproject.toml"
    blob = f"{home}/blob/{os.environ['GITHUB_SHA']}"
    readme.write_text(absolute_links(readme.read_text("utf-8"), blob), "utf-8", newline="\n")
    settings.write_text(with_urls(settings.read_text("utf-8"), home), "utf-8", newline="\n")


if __name__ == "__main__":
    main()
