"""Gather the pages of the site into one folder, for `make docs`.

    python docs/site/stage.py            # pages to target/site/pages
    zensical build --strict              # the site to target/site/html

The pages of docs/ are written for a reader of the repository. On the way a link to a file of the
repository becomes a link to its page, or plain text where there is none, and a public name in code
becomes a link to the API reference. Pages that are not in docs/ are made: those of the reference,
of the command line, of the notebook, and CHANGELOG, CONTRIBUTING and SECURITY.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Mapping
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from docs.site import api, commands, figures, names, notebook  # noqa: E402

DOCS = ROOT / "docs"
STAGED = ROOT / "target" / "site" / "pages"

FROM_ROOT = {
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security.md",
    "examples/tour.ipynb": "tour.md",
}
"""Files of the repository with a page of their own."""

FIGURE = re.compile(r"!\[([^\]]*)\]\(([^)]*\.svg)\)")
FENCE = re.compile(r"(^ *```.*?^ *```)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


def main() -> None:
    """Write every page."""
    shutil.rmtree(STAGED, ignore_errors=True)
    for place, text in pages().items():
        write(place, text)
    for path in (DOCS / "site" / "assets").iterdir():
        write(f"assets/{path.name}", path.read_text())


def write(place: str, text: str) -> None:
    """One file of the folder."""
    target = STAGED / place
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)


def pages() -> dict[str, str]:
    """Every page of the site by its place."""
    known = names.public_names()
    sources = {path.relative_to(ROOT).as_posix(): path for path in DOCS.rglob("*.md")}
    sources |= {name: ROOT / name for name in FROM_ROOT if name.endswith(".md")}
    found = {
        place_of(source): linked(path.read_text(), source, known)
        for source, path in sources.items()
    }
    tour = notebook.page((ROOT / "examples" / "tour.ipynb").read_text())
    found["tour.md"] = linked(tour, "examples/tour.ipynb", known)
    return found | api.pages() | {"reference/commands.md": commands.page()}


def place_of(source: str) -> str:
    """Where the page of a file lies in the site."""
    return FROM_ROOT.get(source, source.removeprefix("docs/"))


def linked(text: str, source: str, known: Mapping[str, str]) -> str:
    """The text of a page with its links and names, but for what stands in blocks of code."""

    def prose(part: str) -> str:
        part = FIGURE.sub(lambda found: figure(found[1], ROOT / source / ".." / found[2]), part)
        part = LINK.sub(lambda found: link(found, source), part)
        lines = part.split("\n")
        return "\n".join(
            line if line.startswith("#") else names.linked(line, known) for line in lines
        )

    parts = FENCE.split(text)
    return "".join(part if place % 2 else prose(part) for place, part in enumerate(parts))


def figure(alternative: str, path: Path) -> str:
    """A figure as a part of the page, whose colours it takes."""
    drawing = path.resolve().read_text().replace(figures.OWN_COLOURS, "").strip()
    return f'<figure class="drawn" aria-label="{escape(alternative)}">{drawing}</figure>'


def link(found: re.Match[str], source: str) -> str:
    """A link as it leads from one page of the site to another."""
    mark, text, target = found.groups()
    if re.match(r"[a-z]+:|#", target):
        return found[0]
    path, _, anchor = target.partition("#")
    file = Path(os.path.normpath(Path(source).parent / path)).as_posix()
    if file == "README.md":
        file = "docs/index.md"
    if not file.startswith("docs/") and file not in FROM_ROOT:
        return text
    if text in (target, Path(path).name):
        text = title(file)
    place = os.path.relpath(place_of(file), Path(place_of(source)).parent)
    return f"{mark}[{text}]({place}{'#' + anchor if anchor else ''})"


def title(file: str) -> str:
    """The heading of a page: what a link is called that says no more than where it leads."""
    text = (ROOT / file).read_text()
    return re.search(r"^# (.*)", text, re.MULTILINE)[1].replace("`", "")


if __name__ == "__main__":
    main()
