"""What a message tree accepts, and how its nodes are laid out."""

from __future__ import annotations

import numpy as np
import pytest
import treepack as tp
from treepack.errors import TreeError

LEAF = tp.MessageTree([7, 8], labels=[7, 8])


def test_nodes_come_depth_first_with_their_parents():
    deep = tp.MessageTree([5], children=[LEAF, LEAF])
    tree = tp.MessageTree([1, 2, 3], children=[deep, LEAF], costs={"crops": 2}, key="k")
    assert tree.lengths == [3, 1, 2, 2, 2]
    assert tree.parents == [-1, 0, 1, 1, 0]
    assert tree.n_tokens == 10
    assert tree.cost == {"crops": 2, "tokens": 10}
    assert "'k'" in repr(tree)


def test_a_deep_chain_needs_no_recursion():
    tree = tp.MessageTree([1])
    for _ in range(5_000):
        tree = tp.MessageTree([1], children=[tree])
    assert tree.n_tokens == 5_001


def test_with_key_leaves_the_original_alone():
    assert LEAF.with_key("x").key == "x"
    assert LEAF.key is None


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"tokens": [1.5]}, "tokens must be integers, got float64"),
        ({"tokens": [[1]]}, r"tokens has shape \(1, 1\)"),
        ({"tokens": np.array([True])}, "bool"),
        ({"tokens": [1, 2], "labels": [1]}, r"labels has shape \(1,\).*\(2,\)"),
        ({"tokens": [1], "labels": [0.5]}, "labels must be integers"),
        ({"tokens": [1, 2], "weight": [1.0]}, "weight must be one number or one for each of 2"),
        ({"tokens": [1], "weight": -1.0}, "not negative"),
        ({"tokens": [1], "weight": float("nan")}, "finite"),
        ({"tokens": [1], "weight": "heavy"}, "weight"),
        ({"tokens": [1], "end_target": -1}, "end_target"),
        ({"tokens": [1], "end_target": 1.0}, "end_target"),
        ({"tokens": [1], "image_runs": [[0, 1]]}, r"image_runs has shape \(1, 2\)"),
        ({"tokens": [1, 2], "root_positions": [[0]]}, r"root_positions has shape \(1, 1\)"),
        ({"tokens": [1], "children": [[1, 2]]}, "children must be MessageTree, got list"),
        ({"tokens": [1], "children": [LEAF.with_key("x")]}, "key inside the tree"),
        (
            {"tokens": [1], "children": [tp.MessageTree([2], image_runs=[[0, 1, 0]])]},
            "image_runs inside the tree.*move them to the root",
        ),
        ({"tokens": [1], "children": [tp.MessageTree([2], media={})]}, "media inside the tree"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(arguments, says):
    with pytest.raises(TreeError, match=says) as caught:
        tp.MessageTree(**arguments, key="coco/17")
    assert "example 'coco/17'" in str(caught.value)


def test_inputs_may_be_read_only_and_stay_as_they_are():
    tokens, weight = np.array([1, 2], np.int32), np.array([1, 0.5])
    tokens.flags.writeable = weight.flags.writeable = False
    tree = tp.MessageTree(tokens, labels=tokens, weight=weight)
    assert tree.tokens.dtype == np.int64
    assert tokens.tolist() == [1, 2]
