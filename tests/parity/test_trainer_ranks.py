"""`PackedTrainer` on two ranks: one rank with twice the packs a step, at less expense."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest
import torch
import transformers as hf
import treepack as tp
from helpers import tiny_models
from helpers.processes.ranks import run_ranks

SAVED, STEPS, RATE = 3, 5, 0.1


def make_model():
    config = hf.LlamaConfig(**tiny_models.TEXT, vocab_size=50)
    return tp.hf.prepare(tiny_models.randomised(hf.LlamaForCausalLM(config)))


def make_data():
    trees = [
        tp.MessageTree([i % 50] * (5 + i % 9), labels=[i % 7] * (5 + i % 9), weight=0.1 + i % 3)
        for i in range(200)
    ]
    return tp.PackedDataset(trees, budgets={"tokens": 64}, pool_size=6, virtual_shards=2)


def make_trainer(folder, accumulate, steps, **ranks):
    sgd = {"optim": "sgd", "learning_rate": RATE, "lr_scheduler_type": "constant"}
    quiet = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "logging_steps": 1}
    sizes = {"gradient_accumulation_steps": accumulate, "max_steps": steps, "max_grad_norm": 0}
    args = hf.TrainingArguments(folder, save_steps=SAVED, **sgd, **quiet, **sizes, **ranks)
    data = {"train_dataset": make_data(), "eval_dataset": make_data()}
    return tp.hf.PackedTrainer(make_model(), args, **data)


def losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def job(rank, world, folder):
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1"}
    os.environ |= {name: str(value) for name, value in place.items()}
    ranks = {"ddp_backend": "gloo", "ddp_find_unused_parameters": False}
    trainer = make_trainer(folder, 2, SAVED, **ranks)
    trainer.train()
    evaluated = trainer.evaluate()["eval_loss"]
    assert trainer.args.world_size == world
    return trainer.model.state_dict(), losses(trainer), evaluated


def by_hand(model, steps):
    """A loop of one process over four packs a step, and the mean loss of all packs after it."""
    optimizer, found = torch.optim.SGD(model.parameters(), RATE), []
    for packs, weight in itertools.islice(tp.train.steps(make_data(), 4), steps):
        each = [model(**pack, num_items_in_batch=weight).loss for pack in packs]
        sum(each).backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(sum(each).item())
    with torch.no_grad():
        sums = [model(**pack, num_items_in_batch=1.0).loss.item() for pack in make_data()]
    return found, sum(sums) / sum(pack["loss_weights"].sum().item() for pack in make_data())


def test_two_ranks_train_as_one_and_one_goes_on(tmp_path):
    first, second = run_ranks(2, job, str(tmp_path))
    model = make_model()
    found, mean = by_hand(model, SAVED)
    for weights, _, evaluated in (first, second):
        assert evaluated == pytest.approx(mean, rel=1e-6)
        for name, weight in model.state_dict().items():
            torch.testing.assert_close(weights[name], weight, rtol=0, atol=1e-6)
    assert first[1] == pytest.approx(found, rel=1e-6)

    rest = make_trainer(str(tmp_path), 4, STEPS)
    rest.train(resume_from_checkpoint=str(Path(tmp_path) / f"checkpoint-{SAVED}"))
    whole = make_model()
    found, _ = by_hand(whole, STEPS)
    assert losses(rest) == pytest.approx(found, rel=1e-6)
    for ours, theirs in zip(rest.model.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
