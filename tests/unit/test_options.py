"""Options that are one of a few words: the types say the words that are accepted, no others."""

from __future__ import annotations

import importlib
import inspect
import re
from typing import get_args

import pytest
import treepack as tp
from treepack import options
from treepack.attention import backends
from treepack.batch.layout import RowLayout
from treepack.errors import TreepackError
from treepack.sources.records.formats import formats

HOMES = ["treepack"] + [
    f"treepack.{name}" for name in ("costs", "families", "hf", "rl", "testing", "train", "viz")
]

FREE = {"key", "name", "title", "system", "separator", "system_end", "metric_key_prefix"}
"""Arguments of text that may be anything."""

TREES = [tp.MessageTree([1, 2])]
COSTS = {"tokens": [1, 2]}
BUDGETS = {"tokens": 8}

REJECTED = {
    "Bidirectional": lambda word: RowLayout(TREES).masks(word),
    "MaskBidirectional": lambda word: tp.TreeMask.from_nodes([1], [-1], bidirectional=word),
    "Oversize": lambda word: tp.Packer(BUDGETS, oversize=word),
    "OversizeOrSplit": lambda word: tp.PackedDataset(TREES, budgets=BUDGETS, oversize=word),
    "SimulatedOversize": lambda word: tp.simulate(COSTS, BUDGETS, oversize=word),
    "OnError": lambda word: tp.PackedDataset(TREES, budgets=BUDGETS, on_error=word),
    "OnCostMismatch": lambda word: tp.PackedDataset(TREES, budgets=BUDGETS, on_cost_mismatch=word),
    "TextBeforeMedia": lambda word: tp.group_conversations([], text_before_media=word),
    "FormatName": lambda word: tp.group_conversations([], format=word),
    "MediumKind": lambda word: tp.Conversations([[("a", "b")]], [(word, "a.png")]),
    "Solver": lambda word: tp.Packer(BUDGETS, solver=word),
    "PackOrder": lambda word: tp.pack(COSTS, BUDGETS, order=word),
    "Effort": lambda word: tp.pack(COSTS, BUDGETS, effort=word),
    "EndOfData": lambda word: next(tp.train.steps([], end=word)),
    "BalanceSync": lambda word: tp.Balance(sync=word),
    "AttentionBackend": backends.checked_name,
}
"""What rejects a word, and names those that there are."""

NOT_TAKEN = {"AdviceKind", "CheckResult", "Logits"}
"""Words that are given out; those of logits need a model (tests/unit/hf)."""

ALIASES = {name: value for name, value in vars(options).items() if name[0].isupper()}
ALIASES = {n: v for n, v in ALIASES.items() if n not in ("Literal", "TypeAlias")}


def words_of(alias):
    """The words of a ``Literal``, those of a pair left out."""
    found = get_args(alias)
    return {word for word in found if isinstance(word, str)} or words_of(found[0])


def test_every_option_is_tried_here():
    assert ALIASES.keys() == REJECTED.keys() | NOT_TAKEN


@pytest.mark.parametrize("name", REJECTED)
def test_a_word_that_there_is_not_is_rejected_and_those_that_there_are_are_named(name):
    with pytest.raises(TreepackError) as caught:
        REJECTED[name]("no_such_word")
    told = set(re.findall(r"\w+", str(caught.value)))
    if name == "FormatName":
        told |= set(formats())
    assert words_of(ALIASES[name]) <= told


def test_files_that_are_found_by_themselves_are_words():
    assert set(get_args(options.AttentionBackend)) == set(backends.NAMES)
    assert set(get_args(options.FormatName)) == set(formats())


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("Oversize", lambda word: tp.Packer(BUDGETS, oversize=word)),
        ("Solver", lambda word: tp.Packer(BUDGETS, solver=word)),
        ("PackOrder", lambda word: tp.pack(COSTS, BUDGETS, order=word)),
        ("Effort", lambda word: tp.pack(COSTS, BUDGETS, effort=word)),
    ],
)
def test_the_core_knows_the_same_words(name, make):
    with pytest.raises(TreepackError) as caught:
        make("no_such_word")
    listed = str(caught.value).split("one of ")[1].split("got")[0]
    assert set(re.findall(r'"(\w+)"', listed)) == words_of(ALIASES[name])


def callables():
    for home in HOMES:
        module = importlib.import_module(home)
        for name in module.__all__:
            item = getattr(module, name)
            if not callable(item):
                continue
            yield f"{home}.{name}", item
            if inspect.isclass(item):
                members = inspect.getmembers(item, inspect.isfunction)
                ours = ((m, f) for m, f in members if f.__module__.startswith("treepack."))
                yield from ((f"{home}.{name}.{m}", f) for m, f in ours if m[0] != "_")


def test_no_option_with_a_word_as_its_default_is_any_string():
    wrong = []
    for name, item in callables():
        try:
            parameters = inspect.signature(item).parameters.values()
        except ValueError:
            continue
        for parameter in parameters:
            is_word = isinstance(parameter.default, str) and parameter.name not in FREE
            if is_word and re.search(r"\bstr\b", str(parameter.annotation)):
                wrong.append(f"{name}({parameter})")
    assert not wrong
