"""Every example in a docstring runs and gives what it says."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest
import treepack

MODULES = ["treepack"] + [
    module.name for module in pkgutil.walk_packages(treepack.__path__, "treepack.")
]


def examples(name):
    module = importlib.import_module(name)
    # The classes of the compiled core say that they live in ``treepack``, where users find them.
    scope = False if name == "treepack._core" else None
    found = doctest.DocTestFinder().find(module, name, module=scope)
    return [test for test in found if test.examples]


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    for test in examples(name):
        failures, _ = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test)
        assert not failures, test.name


def test_the_core_has_examples():
    names = {test.name.removeprefix("treepack._core.") for test in examples("treepack._core")}
    assert {"Packer", "TreeMask.from_nodes"} <= names
