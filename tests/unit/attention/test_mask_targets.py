"""Which row position predicts which token, and what `TreeMask.targets` rejects."""

import pytest
import treepack as tp
from treepack.errors import TreeError

MASK = tp.TreeMask.from_nodes([6, 4, 3], [-1, 0, 0], None, "none", 14)


def targets(nodes=(1,), labels=(1, 2, 3, 4), weights=(1, 1, 1, 1), ends=(9,), end_weights=(1,)):
    arrays = (nodes, labels, weights, ends, end_weights)
    return [array.tolist() for array in MASK.targets(*map(list, arrays))]


def rejected_targets(*words, **given):
    with pytest.raises(TreeError) as caught:
        targets(**given)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("node", [-1, 3])
def test_target_node_out_of_range(node):
    rejected_targets("nodes[0]", str(node), "0 to 2", nodes=[node])


@pytest.mark.parametrize("nodes", [[1, 1], [2, 1]])
def test_target_nodes_not_increasing(nodes):
    rejected_targets("nodes[1]", "increasing", nodes=nodes, ends=[9, 9], end_weights=[1, 1])


def test_labels_of_another_length():
    rejected_targets("labels has 3", "expected 4", labels=[1, 2, 3])


def test_weights_of_another_length():
    rejected_targets("weights has 3", "expected 4", weights=[1, 1, 1])


def test_end_targets_of_another_length():
    rejected_targets("end_targets has 2", "expected 1", ends=[9, 9])


def test_end_weights_of_another_length():
    rejected_targets("end_weights has 0", "expected 1", end_weights=[])


def test_targets_of_another_dtype():
    rejected_targets("labels must be integers, got float64", labels=[1.0, 2, 3, 4])
    rejected_targets("weights must be real numbers, got bool", weights=[True] * 4)
    rejected_targets("end_weights must be real numbers", end_weights=["1"])


def test_targets_of_no_nodes():
    assert targets([], [], [], [], []) == [[], [], []]


def test_first_label_of_a_root_has_no_predictor():
    labels = [1, 2, -100, -100, -100, 3]
    expected = [[0, 4], [2, 3], [0.5, 0.5]]
    assert targets([0], labels, [0.5] * 6, [-100], [1]) == expected


def test_first_label_and_end_of_a_branch_are_predicted_across_empty_nodes():
    # A root, an empty child, below it a branch and another empty node.
    mask = tp.TreeMask.from_nodes([3, 0, 2, 0], [-1, 0, 1, 1])
    position, token, _ = mask.targets([2, 3], [5, 6], [1, 1], [7, 8], [1, 1])
    assert position.tolist() == [2, 3, 4, 2]
    assert token.tolist() == [5, 6, 7, 8]


# Objects
