"""The weighted loss, and Molmo2's weights."""

from __future__ import annotations

import math

import pytest
import torch
import treepack as tp
from treepack.errors import BatchError

LOGITS = torch.randn(1, 4, 7, generator=torch.Generator().manual_seed(0))
TARGETS = torch.tensor([[3, 0, -100, 6]])
WEIGHTS = torch.tensor([[1.0, 0.5, 9.0, 2.0]])


def by_hand(divisor=None, logits=LOGITS):
    scores = logits[0] - logits[0].exp().sum(-1, keepdim=True).log()
    total = -sum(
        w * scores[i, t]
        for i, (t, w) in enumerate(zip(TARGETS[0].tolist(), WEIGHTS[0].tolist(), strict=True))
        if t != -100
    )
    return total / (divisor or 3.5)


def loss(**options):
    options = {"loss_weights": WEIGHTS, "targets": TARGETS, **options}
    return tp.hf.weighted_loss(LOGITS, **options)


def test_it_is_the_weighted_mean_of_the_cross_entropies():
    torch.testing.assert_close(loss(), by_hand())
    torch.testing.assert_close(loss(loss_weights=WEIGHTS / 100), by_hand())


def test_a_divisor_over_all_ranks_may_be_given():
    for divisor in (20.0, 0.25):
        torch.testing.assert_close(loss(num_items_in_batch=divisor), by_hand(divisor))
    torch.testing.assert_close(loss(num_items_in_batch=torch.tensor(20.0)), by_hand(20.0))


@pytest.mark.parametrize(
    ("dtype", "result", "error"),
    [
        (torch.float64, torch.float64, 1e-14),
        (torch.float32, torch.float32, 1e-6),
        (torch.bfloat16, torch.float32, 1e-6),
        (torch.float16, torch.float32, 1e-6),
    ],
)
def test_it_is_exact_and_half_precision_is_summed_in_single(dtype, result, error):
    logits = LOGITS.to(dtype)
    found = tp.hf.weighted_loss(logits, loss_weights=WEIGHTS, targets=TARGETS)
    assert found.dtype == result
    # The logits as they were rounded, in float64: only what the loss itself rounds is left.
    torch.testing.assert_close(found.double(), by_hand(logits=logits.double()), rtol=error, atol=0)


def test_a_row_without_weights_has_loss_zero_and_zero_gradients():
    logits = LOGITS.clone().requires_grad_()
    value = tp.hf.weighted_loss(logits, loss_weights=WEIGHTS * 0, targets=TARGETS)
    value.backward()
    assert value.item() == 0
    assert not logits.grad.any()


@pytest.mark.parametrize("lost", ["loss_weights", "targets"])
def test_a_batch_that_lost_a_part_is_an_error(lost):
    with pytest.raises(BatchError, match=f"without '{lost}'.*remove_unused_columns"):
        loss(**{lost: None})


def test_plain_labels_are_an_error_that_says_the_way_back():
    with pytest.raises(BatchError, match=r"with plain labels.*packed batches.*tp\.hf\.restore"):
        tp.hf.weighted_loss(LOGITS, labels=TARGETS, vocab_size=7)


def test_a_batch_that_lost_its_positions_is_an_error():
    with pytest.raises(BatchError, match=r"4 logits for 2 targets.*logits_to_keep"):
        loss(targets=TARGETS[:, :2])


def test_molmo2_weights_follow_the_formula():
    long = tp.MessageTree([1] * 9, labels=[-100, *[1] * 8], end_target=2)
    short = tp.MessageTree([1, 1], labels=[-100, 1], weight=0.2, end_target=2)
    tree = tp.hf.molmo2_weights(tp.MessageTree([1], children=[long, short]))
    first, second = (child.weight for child in tree.children)
    assert math.isclose(first, 2 / math.sqrt(8) / math.sqrt(2))
    assert math.isclose(second, 0.2 * 2 / math.sqrt(1) / math.sqrt(2))
    # With one branch the end-of-sequence token counts as a loss token.
    single = tp.hf.molmo2_weights(tp.MessageTree([1], children=[long]))
    assert math.isclose(single.children[0].weight, 2 / math.sqrt(9))
    assert long.weight == 1.0
