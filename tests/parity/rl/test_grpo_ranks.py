"""GRPO on trees on two ranks: the weights of TRL's own trainer, and equal ones on both."""

from __future__ import annotations

import os
import warnings

import pytest
import torch
from helpers.processes.ranks import run_ranks

pytest.importorskip("trl")


def job(rank, world, folder):
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1"}
    os.environ |= {name: str(value) for name, value in place.items()}
    warnings.simplefilter("ignore")
    from helpers.text_rows import stock_model
    from parity.rl import test_grpo as grpo

    model = stock_model("qwen3", vocab_size=len(grpo.tokenizer())).float()
    found = []
    for kind in (grpo.StockTrainer, grpo.OurTrainer):
        trainer = grpo.trained(
            kind,
            model,
            folder,
            grpo.prompts(),
            grpo.tokenizer(),
            gradient_checkpointing=False,
            max_steps=2,
            ddp_backend="gloo",
        )
        assert trainer.args.world_size == world
        found.append({n: p.detach().clone() for n, p in trainer.model.named_parameters()})
    return found


def test_two_ranks_train_as_those_of_trl(tmp_path):
    ranks = run_ranks(2, job, str(tmp_path))
    for stock, ours in ranks:
        for name, weight in stock.items():
            torch.testing.assert_close(ours[name], weight, rtol=0, atol=1e-4)
    for name, weight in ranks[0][1].items():
        assert torch.equal(weight, ranks[1][1][name])
