"""TRL's own trees, computed by ours: each sample gets the log-probabilities it has alone."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch
from helpers import cases
from helpers.text_rows import VOCABULARY, stock_model
from treepack import errors, rl
from treepack.rl import trl_attention

pytest.importorskip("trl")


@pytest.fixture(autouse=True)
def _experimental(monkeypatch):
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")


def trl_row(rng):
    """A row of TRL's planner, of samples some of which begin alike."""
    from trl.experimental.async_grpo.packing import TreeRow

    row = TreeRow()
    heads = [rng.integers(0, VOCABULARY, rng.integers(1, 6)) for _ in range(2)]
    for _ in range(rng.integers(1, 6)):
        ids = np.concatenate([heads[rng.integers(2)], rng.integers(0, 3, rng.integers(1, 6))])
        row.add(
            {
                "input_ids": torch.from_numpy(ids),
                "completion_mask": torch.ones(len(ids), dtype=torch.long),
                "old_log_probs": torch.zeros(len(ids)),
                "advantage": 1.0,
                "group_id": 0,
            }
        )
    return row


def inputs_of(packed):
    longest = packed.pop("tree_max_seqlens").tolist()
    tree = {name: packed[name] for name in packed if name.startswith("tree_")}
    tree |= {"tree_max_seqlen_q": longest[0], "tree_max_seqlen_k": longest[1]}
    tokens = {name: packed[name][None] for name in ("input_ids", "position_ids")}
    return {**tokens, **tree}


@pytest.mark.parametrize("checkpointing", [False, True])
def test_rows_of_trl_are_exact(checkpointing):
    from trl.experimental.async_grpo.packing import register_tree_attention

    register_tree_attention()
    rl.register_trl_tree_attention()
    model = stock_model("qwen3").train()
    if checkpointing:
        enable = getattr(model, "activation_checkpointing_enable", None)
        (enable or model.gradient_checkpointing_enable)()
    for rng in cases.cases(5, "rows of TRL"):
        row = trl_row(rng)
        packed = row.pack()
        model.set_attn_implementation("tree_fa3")
        logits = model(**inputs_of(packed), use_cache=False).logits[0].log_softmax(-1)
        labels = packed["shift_labels"][packed["token_index"]]
        mine = logits[packed["token_index"], labels]
        (mine.sum() / 7).backward()
        model.set_attn_implementation("sdpa")
        gradients = [p.grad.clone() for p in model.parameters()]
        model.zero_grad()
        for place, sample in enumerate(row.samples):
            ids = sample["input_ids"][None]
            alone = model(input_ids=ids, use_cache=False).logits[0, :-1].log_softmax(-1)
            alone = alone.gather(-1, ids[0, 1:, None])[:, 0]
            assert float((alone - mine[packed["segment_id"] == place]).detach().abs().max()) < 1e-12
            (alone.sum() / 7).backward()
        for theirs, p in zip(gradients, model.parameters(), strict=True):
            assert float((theirs - p.grad).abs().max()) < 1e-11
        model.zero_grad()


def test_rows_are_forgotten_with_their_index():
    packed = trl_row(np.random.default_rng(1)).pack()
    rl.register_trl_tree_attention()
    x = torch.ones(1, 2, len(packed["input_ids"]), 8)
    trl_attention._attend(torch.nn.Identity(), x, x, x, None, **only_tree(packed))
    assert len(trl_attention._ROWS) == 1
    del packed
    gc.collect()
    assert len(trl_attention._ROWS) == 0


def only_tree(packed):
    return {name: packed[name] for name in packed if name.startswith("tree_")}


def test_what_is_not_exact_is_rejected():
    packed = trl_row(np.random.default_rng(1)).pack()
    x = torch.ones(1, 2, len(packed["input_ids"]), 8)
    with pytest.raises(errors.AttentionError, match="soft-capped"):
        trl_attention._attend(torch.nn.Identity(), x, x, x, None, softcap=30.0, **only_tree(packed))
