"""What stands in for the mask and the labels rejects being read, whoever reads it."""

from __future__ import annotations

import copy
import operator
import pickle
from collections.abc import Iterable, Mapping, Sequence

import pytest
import torch
from treepack.batch import StandIn
from treepack.errors import BatchError, NotPreparedError

LABELS, MASK = StandIn("labels"), StandIn("attention_mask")
READERS = {
    "attribute": lambda x: x.shape,
    "addition": lambda x: x + 1,
    "comparison": lambda x: x > 0,
    "truth": bool,
    "length": len,
    "list": list,
    "unpacking": lambda x: [*x],
    "function of torch": lambda x: torch.mul(torch.zeros(1), x),
    "method of a tensor": lambda x: torch.zeros(1).add(x),
    "keyword of torch": lambda x: torch.where(torch.ones(1).bool(), input=x, other=torch.zeros(1)),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("stand_in", [LABELS, MASK], ids=repr)
def test_whatever_reads_it_is_told_its_name(stand_in, reader):
    with pytest.raises(NotPreparedError, match=f"reads '{stand_in._name}'"):
        READERS[reader](stand_in)


def test_a_function_of_torch_names_the_one_that_it_was_given():
    with pytest.raises(NotPreparedError, match="reads 'attention_mask'"):
        torch.add(torch.zeros(1), MASK)
    with pytest.raises(NotPreparedError, match="reads 'labels'"):
        torch.add(torch.zeros(1), LABELS)


@pytest.mark.parametrize("stand_in", [LABELS, MASK], ids=repr)
@pytest.mark.parametrize(
    "call",
    [
        lambda x: torch.cat([torch.zeros(1), x]),
        lambda x: torch.stack((x, x)),
        lambda x: torch.cat(tensors=[torch.zeros(1), x]),
        lambda x: torch.einsum("i,i->", torch.zeros(1), x),
        lambda x: torch.block_diag(torch.zeros(1), x),
        lambda x: torch.nn.functional.pad(x, (0, 1)),
    ],
    ids=["cat", "stack", "keyword", "einsum", "variadic", "pad"],
)
def test_a_function_of_torch_finds_it_inside_of_lists(stand_in, call):
    with pytest.raises(NotPreparedError, match=f"reads '{stand_in._name}'"):
        call(stand_in)


def test_a_loop_over_it_is_an_error_but_nobody_takes_it_for_a_list():
    for stand_in in (LABELS, MASK):
        assert not isinstance(stand_in, Iterable | Mapping | Sequence)
        with pytest.raises(BatchError, match=f"reads '{stand_in._name}'"):
            next(iter(stand_in))


def test_whoever_counts_labels_gets_an_error_that_is_not_taken_for_an_answer():
    for count in (lambda x: x != -100, lambda x: x.ne(-100), lambda x: x[..., 1:]):
        with pytest.raises(BatchError, match="reads 'labels'"):
            count(LABELS)
    with pytest.raises(NotPreparedError, match="reads 'attention_mask'"):
        MASK[0]


def test_moving_a_batch_value_by_value_reads_nothing():
    batch = {"a": torch.zeros(1), "labels": LABELS, "attention_mask": MASK}
    assert {k: v.to("cpu", non_blocking=True) for k, v in batch.items()}["labels"] is LABELS
    assert MASK.cpu() is MASK.cuda() is MASK.pin_memory() is MASK


def test_stand_ins_of_one_name_are_equal_and_stay_so():
    assert LABELS == StandIn("labels") != MASK
    assert operator.ne(LABELS, StandIn("labels")) is False
    assert operator.ne(LABELS, MASK) is True
    assert len({LABELS, StandIn("labels"), MASK}) == 2
    assert operator.eq(LABELS, "labels") is False
    assert copy.copy(LABELS) is copy.deepcopy(LABELS) is LABELS
    assert pickle.loads(pickle.dumps(MASK)) == MASK
    assert LABELS.ndim == 4
