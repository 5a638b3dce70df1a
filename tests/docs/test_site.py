"""The site builds without a warning, documents every public name, and its links lead somewhere."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import subprocess
import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest
import treepack as tp

pytest.importorskip("zensical")

from docs.site import api, figures, names, notebook, stage

ROOT = Path(__file__).parents[2]
HTML = ROOT / "target" / "site" / "html"
NAMESPACES = (
    *("treepack", "treepack.hf", "treepack.train", "treepack.state", "treepack.testing"),
    *("treepack.costs", "treepack.families", "treepack.viz", "treepack.errors", "treepack.rl"),
    *("treepack.lightning", "treepack.attention", "treepack.packing"),
)


@pytest.fixture(scope="module")
def site():
    """The folder of the site, built as `make docs` does."""
    for command in (
        [sys.executable, "docs/site/stage.py"],
        [Path(sys.executable).with_name("zensical"), "build", "--strict", "--clean"],
    ):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return HTML


class Page(HTMLParser):
    """The ids and links of a page, and its text."""

    def __init__(self, path):
        super().__init__()
        self.ids, self.links, self.text = set(), [], path.read_text()
        self.feed(self.text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.ids |= {given[name] for name in ("id", "name") if given.get(name)}
        self.links += [given[name] for name in ("href", "src") if given.get(name)]


@cache
def read(path):
    return Page(path)


def test_every_link_leads_to_a_place_of_the_site(site):
    broken, outside = [], set()
    for path in site.rglob("index.html"):
        for link in read(path).links:
            target, anchor = urldefrag(link)
            if re.match(r"[a-z]+:", target):
                outside.add(target.partition(":")[0])
                continue
            file = (path.parent / unquote(target)).resolve() if target else path
            file = file / "index.html" if file.is_dir() else file
            if not file.exists() or (anchor and unquote(anchor) not in read(file).ids):
                broken.append((path.relative_to(site).as_posix(), link))
    assert not broken
    assert outside <= {"https", "data", "mailto"}


def test_every_public_name_has_a_place_in_the_reference(site):
    documented = names.documented()
    assert len(set(documented)) == len(documented)
    pages = {task.page: read(site / "api" / task.page / "index.html") for task in api.TASKS}
    for task in api.TASKS:
        assert not [name for name in task.names if name not in pages[task.page].ids]


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_the_reference_knows_every_public_name(namespace):
    module = importlib.import_module(namespace)
    known = {locate(name) for name in names.documented()}
    found = {name: getattr(module, name) for name in module.__all__}
    assert not [
        name for name, item in found.items() if id(item) not in known and not inspect.ismodule(item)
    ]


def locate(full):
    module, _, name = full.rpartition(".")
    return id(getattr(importlib.import_module(module), name))


def test_docstrings_are_shown_in_full(site):
    """Those of the compiled classes, of functions that share a module's name, and examples."""
    attention, rl, rows = (
        re.sub(r"<[^>]+>", "", read(site / "api" / name / "index.html").text)
        for name in ("attention", "rl", "rows")
    )
    for page, item in (
        (attention, tp.TreeMask.from_nodes),
        (attention, tp.tree_attention),
        (rl, tp.rl.fold),
        (rows, tp.collate),
        (rows, tp.PackedDataset.state_dict),
    ):
        first = inspect.getdoc(item).split(".")[0]
        assert first.replace("`", "") in " ".join(page.split())
    assert "Example:" not in attention + rl + rows


@pytest.mark.parametrize("name", sorted(figures.FIGURES))
def test_figures_are_those_that_the_code_draws(name):
    assert (figures.FOLDER / name).read_text() == figures.FIGURES[name]()


def test_every_pair_of_the_mask_is_in_the_figure_once():
    text = figures.draw_mask()
    letters = re.findall(r">([SCAG])</text>", text)
    legend = len(figures.KINDS)
    plan = (ROOT / "docs" / "reference" / "plan.md").read_text()
    drawn = re.search(r"```text\n(.*?)```", plan, re.DOTALL)[1]
    assert sorted(letters[:-legend]) == sorted(re.findall(r"\b[SCAG]\b", drawn))


def test_figures_are_parts_of_their_pages(site):
    page = read(site / "concepts" / "index.html").text
    assert page.count("<figure") == 2
    assert figures.OWN_COLOURS not in page


def test_every_page_with_code_has_a_test_that_runs_it():
    tests = "".join(path.read_text() for path in (ROOT / "tests" / "docs").glob("test_*.py"))
    pages = [path for path in (ROOT / "docs").rglob("*.md") if "```python" in path.read_text()]
    assert pages
    assert not [path.name for path in pages if f'{path.name}"' not in tests]


def test_the_home_page_opens_as_the_readme_does():
    first = [
        re.search(r"```python\n(.*?)```", (ROOT / name).read_text(), re.DOTALL)[1]
        for name in ("README.md", "docs/index.md")
    ]
    assert first[0] == first[1]


def test_links_of_the_repository_lead_to_its_files():
    broken = []
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "examples/README.md"]:
        for _, _, link in stage.LINK.findall(stage.FENCE.sub("", path.read_text())):
            target, anchor = urldefrag(link)
            if re.match(r"[a-z]+:", link):
                continue
            file = (path.parent / target) if target else path
            if not file.exists() or (anchor and anchor not in headings(file)):
                broken.append((path.relative_to(ROOT).as_posix(), link))
    assert not broken


def headings(path):
    """The anchors of a file, as code hosts make them of its headings."""
    titles = re.findall(r"^#+ (.*)", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_tour_gives_what_it_shows():
    """Run from its first cell to its last, in an empty folder; numbers are the same too."""
    shown = notebook.TOUR.read_text()
    found = notebook.run(shown)
    assert texts(found) == texts(shown)


def texts(text):
    """The lines that each cell printed, and what kinds of thing it showed."""
    return [
        "".join(output.get("text", ())) or sorted(output["data"])
        for cell in json.loads(text)["cells"]
        for output in cell.get("outputs", ())
    ]
