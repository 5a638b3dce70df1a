"""A row as the model gets it."""

from __future__ import annotations

import io
import pickle

import numpy as np
import pytest
import torch
import treepack as tp
from treepack.errors import BatchError


def make_batch(**options):
    answer = tp.MessageTree([5, 6], labels=[5, 6], weight=0.5, end_target=9)
    silent = tp.MessageTree([7, 8], labels=[-100, 8], weight=[1.0, 2.0])
    media = {"pixels": np.ones((2, 3), np.float32)}
    tree = tp.MessageTree([1, 2, 3], children=[answer, silent], key="a", media=media)
    text = tp.MessageTree([4, 4], labels=[4, 4], key="b")
    return tp.collate([tree, text], **options)


def test_targets_follow_the_tree():
    batch = make_batch()
    assert batch["input_ids"].tolist() == [[1, 2, 3, 5, 6, 7, 8, 4, 4]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4, 3, 4, 0, 1]]
    # Both branches go on from token 2; the second one's first token carries no loss.
    assert batch["logits_to_keep"].tolist() == [2, 3, 4, 5, 7]
    assert batch["shift_labels"].tolist() == batch["labels"].tolist() == [[5, 6, 9, 8, 4]]
    assert batch["loss_weights"].tolist() == [[0.5, 0.5, 0.5, 2.0, 1.0]]
    assert batch["use_cache"] is False
    assert batch["treepack"].keys == ["a", "b"]


def test_stats_say_how_full_the_row_is():
    stats = make_batch(total=12, budgets={"tokens": 12})["treepack"].stats
    assert stats["fill/tokens"] == 9 / 12
    assert (stats["examples"], stats["branches"], stats["targets"]) == (2, 3, 5)
    assert stats["padding"] == 3
    assert all(isinstance(value, float) for value in stats.values())


def test_padding_fills_the_row_and_carries_nothing():
    batch, padded = make_batch(), make_batch(total=16)
    assert padded["input_ids"].shape == padded["position_ids"].shape == (1, 16)
    for name in ("logits_to_keep", "labels", "loss_weights"):
        assert torch.equal(batch[name], padded[name])
    assert padded["treepack"].mask.used == 9
    assert not padded["treepack"].mask.to_dense()[9:].any()


def test_a_row_that_is_too_short_is_refused():
    with pytest.raises(BatchError, match=r"2 trees have 9 tokens, the row has room for 8"):
        make_batch(total=8)
    with pytest.raises(BatchError, match="at least one tree"):
        tp.collate([])


def test_media_that_do_not_fit_together_are_refused():
    trees = [tp.MessageTree([1], media={"pixels": np.ones((1, n))}) for n in (2, 3)]
    with pytest.raises(BatchError, match=r"'pixels'.*\(1, 2\).*\(1, 3\)"):
        tp.collate(trees)


def same(one, other):
    assert list(one) == list(other)
    for name, value in one.items():
        if isinstance(value, torch.Tensor):
            assert value.dtype == other[name].dtype
            assert torch.equal(value, other[name])
    assert one["treepack"].mask == other["treepack"].mask
    assert torch.equal(one["treepack"].plan.plan, other["treepack"].plan.plan)
    assert torch.equal(one["treepack"].plan.host, other["treepack"].plan.host)
    assert one["treepack"].stats == other["treepack"].stats


def test_pickling_keeps_everything():
    batch = make_batch(total=12)
    batch["half"] = torch.ones(3, dtype=torch.bfloat16)
    batch["empty"] = torch.ones(0, 4)
    batch["scalar"] = torch.tensor(3)
    batch["large"] = torch.rand(300, 300)
    same(batch, pickle.loads(pickle.dumps(batch)))


def test_small_tensors_cross_a_process_border_in_one_piece():
    # Tensors that go through torch's reducers each cost a shared file; count what is left to them.
    class Counting(pickle.Pickler):
        tensors = 0

        def reducer_override(self, value):
            self.tensors += isinstance(value, torch.Tensor)
            return NotImplemented

    batch = make_batch()
    pickler = Counting(io.BytesIO())
    pickler.dump(batch)
    assert pickler.tensors == 0
    batch["large"] = torch.rand(300, 300)
    pickler = Counting(io.BytesIO())
    pickler.dump(batch)
    assert pickler.tensors == 1


def test_to_moves_the_plan_and_casts_inputs_but_not_weights():
    batch = make_batch()
    moved = batch.to("cpu", dtype=torch.bfloat16)
    assert moved["pixels"].dtype == torch.bfloat16
    assert moved["loss_weights"].dtype == torch.float32
    assert moved["input_ids"].dtype == torch.int64
    assert type(moved) is type(batch)
    assert batch["pixels"].dtype == torch.float32
    meta = batch.to("meta")
    assert meta["input_ids"].is_meta
    assert meta["treepack"].plan.plan.is_meta
    assert not meta["treepack"].plan.host.is_meta
