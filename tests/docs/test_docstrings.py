"""Every public name says all that its docstring has to say, and every example runs."""

from __future__ import annotations

import builtins
import doctest
import importlib
import inspect
import pkgutil
import re

import pytest
import treepack

MODULES = ["treepack"] + [
    module.name for module in pkgutil.walk_packages(treepack.__path__, "treepack.")
]

PUBLIC = ["treepack"] + [
    f"treepack.{name}"
    for name in ("hf", "train", "state", "testing", "costs", "families", "viz", "errors")
]
"""Modules whose ``__all__`` is what users may rely on."""

MADE_BY = {"Pack": "Packer.push", "TreeMask": "TreeMask.from_nodes"}
"""Classes without a constructor: the example is that of what makes them."""


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
    assert {"Packer", *MADE_BY.values()} <= names


def sections(item):
    """Names of the entries of each section of a docstring, in order: Args, Raises and the like."""
    found = {}
    for line in (inspect.getdoc(item) or "").splitlines():
        if title := re.fullmatch(r"([A-Z]\w+):", line):
            entries = found.setdefault(title[1], [])
        elif found and (entry := re.match(r" {4}(\w+): ", line)):
            entries.append(entry[1])
    return found


def parameters(item):
    """Names of the arguments; a class that leaves them to its base has none of its own."""
    if inspect.isclass(item) and not {"__init__", "__new__"} & vars(item).keys():
        return []
    return [name for name in inspect.signature(item).parameters if name != "self"]


def is_known_error(name):
    kind = getattr(treepack.errors, name, getattr(builtins, name, None))
    return inspect.isclass(kind) and issubclass(kind, Exception)


def problems_of(name, item, needs_example, is_override=False):
    """What a docstring of a function, a method or a class lacks."""
    text, told = inspect.getdoc(item) or "", sections(item)
    if not text.split("\n")[0].endswith("."):
        yield f"{name}: the first line is no sentence"
    missing = [p for p in parameters(item) if p not in told.get("Args", ())]
    if missing and not is_override:
        yield f"{name}: Args lacks {missing}"
    unknown = set(told.get("Args", ())) - set(parameters(item))
    if unknown:
        yield f"{name}: Args has {sorted(unknown)}, which it does not take"
    strange = [error for error in told.get("Raises", ()) if not is_known_error(error)]
    if strange or told.get("Raises") == []:
        yield f"{name}: Raises has {strange}, which are no errors of treepack or of Python"
    if needs_example and not ("Example" in told and ">>> " in text):
        yield f"{name}: no Example"


def problems_of_members(name, kind):
    """What the public methods and properties of a class lack; those inherited do not count."""
    described = {entry for entries in sections(kind).values() for entry in entries}
    # What a method takes is described where it is defined first.
    elsewhere = kind.__mro__[1:]
    for member, value in vars(kind).items():
        if member.startswith("_"):
            continue
        # Of a static method of the compiled core only what it makes has the documentation.
        is_bound = isinstance(value, (staticmethod, classmethod))
        value = getattr(kind, member) if is_bound else value
        if inspect.isroutine(value):
            is_override = any(hasattr(base, member) for base in elsewhere)
            yield from problems_of(f"{name}.{member}", value, False, is_override)
        elif inspect.isdatadescriptor(value) and member not in described:
            yield from problems_of_property(f"{name}.{member}", value)


def problems_of_property(name, value):
    if not (inspect.getdoc(value) or "").split("\n")[0].endswith("."):
        yield f"{name}: no docstring, and the class does not describe it"


def problems(name, item):
    if inspect.isclass(item):
        yield from problems_of_members(name, item)
    is_error = inspect.isclass(item) and issubclass(item, Exception)
    yield from problems_of(name, item, not is_error and name.split(".")[-1] not in MADE_BY)


@pytest.mark.parametrize("module", PUBLIC)
def test_public_names_are_documented(module):
    home = importlib.import_module(module)
    items = {f"{module}.{name}": getattr(home, name) for name in home.__all__}
    assert not [
        problem
        for name, item in items.items()
        if inspect.isroutine(item) or inspect.isclass(item)
        for problem in problems(name, item)
    ]


def test_what_a_docstring_lacks_is_found():
    def good(number, *others):
        """Add numbers.

        Args:
            number: the first.
            others: the rest.

        Raises:
            DataError: never.

        Example:
            >>> 1 + 1
            2
        """

    def bad(number):
        """Add

        Args:
            numbers: what is added.

        Raises:
            SumError: never.
        """

    class Holder:
        """Holds numbers.

        Example:
            >>> 1
            1
        """

        def add(self, number):
            """Add a number."""

        @property
        def total(self):
            return 0

    assert not list(problems("good", good))
    assert len(list(problems("bad", bad))) == 5
    assert len(list(problems("Holder", Holder))) == 2
