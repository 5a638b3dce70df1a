"""What the loss says of a batch that lost a part, and which tokens Molmo2's weights count."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import treepack as tp
from treepack.errors import BatchError

LOGITS = torch.zeros(1, 2, 7)
TARGETS = torch.tensor([[3, 0]])
WEIGHTS = torch.ones(1, 2)


@pytest.mark.parametrize("labels", [None, TARGETS])
@pytest.mark.parametrize("lost", ["loss_weights", "targets"])
def test_plain_labels_are_named_only_where_they_came_instead_of_targets(labels, lost):
    given = {"loss_weights": WEIGHTS, "targets": TARGETS}
    given = {name: value for name, value in given.items() if name != lost}
    given |= {} if labels is None else {"labels": labels}
    with pytest.raises(BatchError, match=f"without '{lost}'") as error:
        tp.hf.weighted_loss(LOGITS, **given)
    came_instead = labels is not None and lost == "targets"
    assert ("with plain labels" in str(error.value)) == came_instead


def test_a_share_of_each_target_goes_to_all_tokens_alike():
    logits = torch.randn(1, 3, 7, generator=torch.Generator().manual_seed(1))
    targets, weights = torch.tensor([[3, -100, 6]]), torch.tensor([[1.0, 9.0, 0.5]])
    scores = logits[0].log_softmax(-1)
    for share in (0.0, 0.3, 1.0):
        each = -(1 - share) * scores[[0, 2], [3, 6]] - share * scores[[0, 2]].mean(-1)
        expected = (each[0] + 0.5 * each[1]) / 1.5
        given = {"loss_weights": weights, "targets": targets, "label_smoothing": share}
        torch.testing.assert_close(tp.hf.weighted_loss(logits, **given), expected)


def test_molmo2_counts_the_end_of_a_single_branch_where_it_has_one():
    def weight(**options):
        branch = tp.MessageTree([1, 2, 3, 4], **options)
        return tp.hf.molmo2_weights(tp.MessageTree([1], children=[branch])).children[0].weight

    labels = [-100, 2, 3, 4]
    assert math.isclose(weight(labels=labels), 2 / math.sqrt(3))
    assert math.isclose(weight(labels=labels, end_target=5), 2 / math.sqrt(4))
    assert math.isclose(weight(end_target=5), 2)


@pytest.mark.parametrize("scale", [2.0, np.float64(2.0)])
def test_molmo2_keeps_weights_of_each_token_apart_and_in_float32(scale):
    branch = tp.MessageTree([1, 2], labels=[1, 2], weight=[1.0, 3.0])
    tree = tp.hf.molmo2_weights(tp.MessageTree([1], children=[branch] * 2), scale)
    first = tree.children[0].weight
    assert first.dtype == np.float32
    np.testing.assert_allclose(first, np.array([1.0, 3.0]) * 2 / math.sqrt(2) / math.sqrt(2))
    assert branch.weight.tolist() == [1.0, 3.0]
