"""What a message tree accepts, and how its nodes are laid out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import treepack as tp
from helpers.cases import cases
from treepack.errors import CostError, TreeError, TreepackError

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
        ({"tokens": [[1]]}, r"tokens has shape \[1, 1\], expected \[n\]"),
        ({"tokens": [[1], [2, 3]]}, "tokens cannot be read as an array"),
        ({"tokens": torch.ones(2, requires_grad=True)}, "tokens cannot be read as an array.*grad"),
        ({"tokens": [3, 4, -1]}, r"tokens\[2\] is -1.*0 or more"),
        ({"tokens": np.array([1, 2**63], np.uint64)}, f"tokens holds {2**63}, more than int64"),
        ({"tokens": np.array([True])}, "bool"),
        ({"tokens": [1, 2], "labels": [1]}, r"labels has shape \[1\].*\[2\]; one"),
        ({"tokens": [1], "labels": [0.5]}, "labels must be integers"),
        ({"tokens": [1, 2], "labels": [3, -200]}, r"labels\[1\] is -200.*-100"),
        ({"tokens": [1, 2], "labels": [-1, -100]}, r"labels\[0\] is -1.*-100"),
        (
            {"tokens": [1], "labels": np.array([2**64 - 100], np.uint64)},
            f"labels holds {2**64 - 100}, more than int64",
        ),
        ({"tokens": [1, 2], "weight": [1.0]}, "weight must be one number or one for each of 2"),
        ({"tokens": [1, 2], "weight": [[1.0], []]}, "weight cannot be read as an array"),
        ({"tokens": [1], "weight": True}, "weight must be one number.*bool"),
        ({"tokens": [1], "weight": 1e300}, r"1e\+300.*float32"),
        ({"tokens": [1, 2], "weight": [1, 1e300]}, r"weight\[1\] is 1e\+300.*float32"),
        ({"tokens": [1, 2], "weight": [-0.5, 1]}, r"weight\[0\] is -0\.5.*not negative"),
        ({"tokens": [1], "weight": -2}, "weight is -2.*not negative"),
        ({"tokens": [1], "weight": -1.0}, "not negative"),
        ({"tokens": [1], "weight": float("nan")}, "finite"),
        ({"tokens": [1], "weight": "heavy"}, "weight"),
        ({"tokens": [1], "end_target": -1}, "end_target"),
        ({"tokens": [1], "end_target": 1.0}, "end_target"),
        ({"tokens": [1], "end_target": 1 << 63}, "end_target"),
        ({"tokens": [1], "image_runs": [[0, 1]]}, r"image_runs has shape \[1, 2\].*\[n, 3\]"),
        ({"tokens": [1] * 9, "image_runs": [[0, 4, 0], [6, 6, 1]]}, r"run 1 is \[6, 6\).*\[4, 9\)"),
        ({"tokens": [1] * 9, "image_runs": [[-1, 4, 0]]}, r"run 0 is \[-1, 4\)"),
        ({"tokens": [1] * 9, "image_runs": [[4, 10, 0]]}, r"run 0 is \[4, 10\).*\[0, 9\)"),
        ({"tokens": [1] * 9, "image_runs": [[4, 6, 0], [0, 2, 1]]}, r"run 1 is \[0, 2\).*\[6, 9\)"),
        ({"tokens": [1] * 9, "image_runs": [[0, 6, 0], [5, 9, 1]]}, r"run 1 is \[5, 9\).*\[6, 9\)"),
        ({"tokens": [1, 2], "root_positions": [[0]]}, r"root_positions has shape \[1, 1\]"),
        ({"tokens": [1], "children": LEAF}, r"children is a MessageTree.*\[child\]"),
        ({"tokens": [1], "children": 7}, "children is a int"),
        ({"tokens": [1], "media": [1]}, "media must be a dict.*got list"),
        ({"tokens": [1], "media": {"pixels": [1.0]}}, "media 'pixels' must be an array.*got list"),
        ({"tokens": [1], "media": {"pixels": np.float32(1)}}, "media 'pixels' must be an array"),
        ({"tokens": [1], "costs": [1]}, "costs must be a dict.*got list"),
        ({"tokens": [1], "children": [[1, 2]]}, "children must be MessageTree, got list"),
        ({"tokens": [1], "children": [LEAF.with_key("x")]}, "key inside the tree"),
        (
            {"tokens": [1], "children": [tp.MessageTree([2], image_runs=[[0, 1, 0]])]},
            "image_runs inside the tree.*move them to the root",
        ),
        ({"tokens": [1], "children": [tp.MessageTree([2], media={})]}, "media inside the tree"),
    ],
)
def test_what_makes_no_sense_is_rejected_by_name(arguments, says):
    with pytest.raises(TreeError, match=says) as caught:
        tp.MessageTree(**arguments, key="coco/17")
    assert "example 'coco/17'" in str(caught.value)


def test_inputs_may_be_read_only_and_stay_as_they_are():
    tokens, weight = np.array([1, 2], np.int32), np.array([1, 0.5])
    tokens.flags.writeable = weight.flags.writeable = False
    tree = tp.MessageTree(tokens, labels=tokens, weight=weight)
    assert tree.tokens.dtype == np.int64
    assert tokens.tolist() == [1, 2]


@pytest.mark.parametrize("name", [*tp.collate([LEAF]), "attention_mask"])
def test_media_may_not_take_the_names_of_the_row(name):
    with pytest.raises(TreeError, match=f"example 'coco/17': media {name!r}.*another name"):
        tp.MessageTree([1], media={"pixels": np.ones((1, 3)), name: np.ones((1, 3))}, key="coco/17")


@pytest.mark.parametrize(
    ("costs", "says"),
    [
        ({"tokens": 3}, "'tokens'.*counted"),
        ({"crops": -1}, "'crops' is -1.*0 or more"),
        ({"crops": 0.5}, "'crops' is 0.5.*integer"),
        ({"crops": True}, "'crops' is True.*integer"),
        ({"crops": None}, "'crops' is None.*integer"),
    ],
)
def test_costs_that_no_budget_could_count_are_rejected(costs, says):
    with pytest.raises(CostError, match=f"example 'coco/17': .*{says}"):
        tp.MessageTree([1], costs={"patches": 2, **costs}, key="coco/17")


def test_costs_are_plain_integers():
    tree = tp.MessageTree([1], costs={"crops": np.int32(3)})
    assert tree.cost == {"crops": 3, "tokens": 1}
    assert type(tree.cost["crops"]) is int


def test_nothing_may_be_given_as_an_empty_list_or_none():
    for runs in ([], np.empty((0, 3), np.int64), np.empty(0), None):
        tree = tp.MessageTree([1], image_runs=runs, children=None)
        assert tree.image_runs is None
        assert tree.children == ()
        tp.collate([tree], bidirectional="image_tokens")
    assert tp.MessageTree([1], children=[tp.MessageTree([2], image_runs=[])]).n_tokens == 2


def test_every_label_below_0_but_the_ignored_one_is_found():
    for rng in cases(1000, "labels"):
        n = int(rng.integers(1, 9))
        labels = rng.choice([-(2**63), -200, -101, -100, -100, -99, -1, 0, 5, 2**63 - 1], n)
        bad = [label for label in labels.tolist() if label < 0 and label != -100]
        if not bad:
            kept = tp.MessageTree([1] * n, labels=labels).labels
            assert kept.tolist() == labels.tolist()
            continue
        with pytest.raises(TreeError, match=r"labels\[\d\] is") as caught:
            tp.MessageTree([1] * n, labels=labels)
        assert any(f"is {label}" in str(caught.value) for label in bad)


def test_runs_are_rejected_by_the_tree_exactly_if_the_mask_rejects_them():
    kinds = set()
    for rng in cases(1000, "runs of a tree"):
        n = int(rng.integers(1, 8))
        runs = rng.integers(-1, n + 2, (rng.integers(1, 4), 3))
        runs = np.sort(runs, axis=None).reshape(runs.shape) if rng.random() < 0.5 else runs
        runs[:, 2] = np.arange(len(runs))
        errors = []
        for make in (
            lambda n=n, runs=runs: tp.MessageTree([1] * n, image_runs=runs),
            lambda n=n, runs=runs: tp.TreeMask.from_nodes([n], [-1], runs, "within_image"),
        ):
            try:
                make()
            except TreepackError as error:
                errors.append(type(error))
        assert errors in ([], [TreeError] * 2)
        kinds.add(len(errors))
    assert kinds == {0, 2}


def test_the_largest_weight_is_that_of_float32():
    largest = float(np.finfo(np.float32).max)
    for weight in (
        largest,
        [largest],
        np.array([largest], np.float32),
        np.float32(largest),
        3,
        0,
        np.float16([2]),
    ):
        batch = tp.collate([tp.MessageTree([1], end_target=2, weight=weight)])
        assert batch["loss_weights"].isfinite().all()
