"""``help`` and ``dir`` show what users may rely on, and say of each name in a line what it is."""

from __future__ import annotations

import importlib
import pydoc
import re

import pytest

NAMESPACES = ["costs", "errors", "families", "hf", "rl", "state", "testing", "train", "viz"]
HOMES = ["treepack", *(f"treepack.{name}" for name in NAMESPACES)]

LINE = re.compile(r"^    (\w+) {2,}(\S.*)$", re.MULTILINE)


def listed(text):
    """Names of a docstring that have a line of their own, with it."""
    return [name for name, _ in LINE.findall(text.split(">>>")[0])]


@pytest.mark.parametrize("home", HOMES)
def test_the_docstring_lists_each_public_name_once(home):
    module = importlib.import_module(home)
    assert sorted(listed(module.__doc__)) == sorted(module.__all__)
    assert all(len(line) <= 100 for line in module.__doc__.splitlines())


@pytest.mark.parametrize("home", HOMES)
def test_dir_shows_public_names_alone(home):
    module = importlib.import_module(home)
    assert dir(module) == sorted(module.__all__)


@pytest.mark.parametrize("home", HOMES)
def test_help_begins_with_the_public_names(home):
    module = importlib.import_module(home)
    text = pydoc.plain(pydoc.render_doc(module))
    places = [re.search(rf"^ +{name} {{2,}}\S", text, re.MULTILINE) for name in module.__all__]
    assert all(places)
    end = re.search(r"^(PACKAGE CONTENTS|CLASSES|FUNCTIONS|DATA)$", text, re.MULTILINE).start()
    assert max(place.start() for place in places) < end


def test_help_documents_no_module_that_is_not_public():
    import treepack

    text = pydoc.plain(pydoc.render_doc(treepack))
    contents = text[text.index("PACKAGE CONTENTS") :]
    # pydoc lists the files of a package, whatever they are; it says no more of them.
    names = contents[: contents.index("\nCLASSES")].splitlines()[1:]
    assert all(re.fullmatch(r"    \w+( \(package\))?|", name) for name in names)
    assert "What neither this nor the documentation names is internal" in " ".join(text.split())
    documented = re.findall(r"^    class (\w+)", text, re.MULTILINE)
    assert set(documented) <= set(treepack.__all__)
