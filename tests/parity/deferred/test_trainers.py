"""Whole trainings with deferred logits end with the weights of those with full ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers as hf
import treepack as tp
from helpers import tiny_models
from helpers.losses.models import TEXT_MODELS
from helpers.text_rows import random_trees
from torch.utils.data import DataLoader
from treepack.hf.head import slices
from treepack.hf.head.deferred import DeferredLogits

STEPS, RATE = 4, 0.1
WAYS = ("full", "deferred")
TRAININGS = {
    "plain": {},
    "smoothed": {"label_smoothing_factor": 0.1},
    "accumulated": {"gradient_accumulation_steps": 2},
    "checkpointed": {"gradient_checkpointing": True},
    "bf16": {"bf16": True},
}

pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning"),
]


def make_model(logits, name="llama, tied"):
    return tp.hf.prepare(tiny_models.randomised(TEXT_MODELS[name]()).float(), logits=logits)


def make_data():
    trees = random_trees(np.random.default_rng(0), 60)
    return tp.PackedDataset(trees, budgets={"tokens": 64}, pool_size=6, virtual_shards=2)


@pytest.fixture
def deferred_calls(monkeypatch):
    """How often a loss was computed by slices."""
    calls, run = [], slices._BySlices.apply
    monkeypatch.setattr(slices._BySlices, "apply", lambda *args: calls.append(1) or run(*args))
    return calls


def assert_same(ours, theirs, atol):
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=atol)


@pytest.mark.parametrize("training", TRAININGS)
def test_a_trainer_ends_with_the_same_weights(tmp_path, deferred_calls, training):
    sgd = {"optim": "sgd", "learning_rate": RATE, "lr_scheduler_type": "constant"}
    quiet = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "logging_steps": 1}
    models, evaluated = [], []
    for logits in WAYS:
        args = hf.TrainingArguments(
            str(tmp_path / logits),
            max_steps=STEPS,
            save_steps=2,
            **sgd,
            **quiet,
            **TRAININGS[training],
        )
        trainer = tp.hf.PackedTrainer(
            make_model(logits), args, train_dataset=make_data(), eval_dataset=make_data()
        )
        assert not deferred_calls
        trainer.train()
        evaluated.append(trainer.evaluate()["eval_loss"])
        models.append(trainer.model)
    accumulated = TRAININGS[training].get("gradient_accumulation_steps", 1)
    assert len(deferred_calls) >= STEPS * accumulated
    atol = 0.02 if training == "bf16" else 1e-6
    assert_same(*models, atol=atol)
    assert evaluated[1] == pytest.approx(evaluated[0], rel=atol)


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_accelerate_ends_with_the_same_weights(deferred_calls, precision):
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    models = []
    for logits in WAYS:
        # Other tests of this process may have had another precision.
        AcceleratorState._reset_state(reset_partial_state=True)
        accelerator = Accelerator(cpu=True, mixed_precision=precision)
        model = make_model(logits)
        optimizer = torch.optim.SGD(model.parameters(), RATE)
        model, optimizer = accelerator.prepare(model, optimizer)
        loader = DataLoader(make_data(), batch_size=None)
        for step, (packs, weight) in enumerate(tp.train.steps(loader, accumulate=2)):
            for pack in packs:
                out = model(**pack, num_items_in_batch=weight)
                assert isinstance(out.logits, DeferredLogits) == (logits == "deferred")
                assert out.logits.dtype == torch.float32
                accelerator.backward(out.loss)
            optimizer.step()
            optimizer.zero_grad()
            if step == STEPS:
                break
        models.append(accelerator.unwrap_model(model))
    assert deferred_calls
    assert_same(*models, atol=0.02 if precision == "bf16" else 1e-6)


def test_a_training_goes_on_with_the_other_way(tmp_path):
    """How logits are made is not a part of a checkpoint."""
    args = {"optim": "sgd", "learning_rate": RATE, "lr_scheduler_type": "constant"}
    args |= {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_steps": 2}
    weights = {}
    for name, ways in {"whole": ("full",), "changed": ("full", "deferred")}.items():
        for stop, logits in zip((STEPS,) if len(ways) == 1 else (2, STEPS), ways, strict=True):
            trainer = tp.hf.PackedTrainer(
                make_model(logits),
                hf.TrainingArguments(str(tmp_path / name), max_steps=stop, **args),
                train_dataset=make_data(),
            )
            trainer.train(resume_from_checkpoint=stop == STEPS and len(ways) > 1)
        weights[name] = trainer.model
    assert_same(*weights.values(), atol=1e-6)
