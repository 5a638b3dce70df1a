"""Conversations that share turns: every path of the nested tree gets what it gets alone."""

from __future__ import annotations

import functools

import pytest
import treepack as tp
from helpers import zoo
from helpers.cases import FACTOR
from helpers.unrounded import unrounded
from helpers.zoo.examples import image
from treepack import families

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

# Causal, with images that see ahead, and two kinds of recurrent layers.
FEW = ("gemma3", "lfm2_vl", "molmo2", "qwen3_5", "qwen3_vl")
# Its prompt is in the root, so that nothing is left to share.
NAMES = sorted(set(zoo.BUILDERS) - {"paligemma"}) if FACTOR > 1 else FEW

BRANCHES = [
    [("What is it?", "A cat."), ("Its colour?", "Black.")],
    [("Where?", "Here.")],
    [("What is it?", "A cat."), ("Its age?", "Two.")],
    [("What is it?", "A cat.")],
    [("What is it?", "A dog.")],
    [("Where?", "There."), ("Why?", "So.")],
]


@functools.cache
def make(name):
    processor, model = zoo.build(name)
    return families.find(processor), model


@pytest.mark.parametrize("name", NAMES)
def test_nested_trees_are_exact(name):
    family, model = make(name)
    examples = [
        tp.Conversations(BRANCHES, [image(3, 40, 56)], key="shared"),
        tp.Conversations(BRANCHES[:3], [image(4, 56, 40)], key="again"),
    ]
    tree = family.load(examples[0])
    assert len(tree.lengths) > 1 + len(BRANCHES)
    with unrounded():
        report = tp.testing.check_exact(model, family, examples)
    assert report.logits < 1e-12
    assert report.loss < 1e-12
    assert report.gradients < 1e-11
    assert len(report.paths) == len(BRANCHES) + 3
