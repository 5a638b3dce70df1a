"""What a trainer says of its packs, of data that ends, and of labels that are smoothed."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers as hf
import treepack as tp
from torch.nn.functional import cross_entropy
from treepack.errors import DatasetError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def model():
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2}
    return tp.hf.prepare(
        hf.LlamaForCausalLM(hf.LlamaConfig(vocab_size=16, num_hidden_layers=1, **sizes))
    )


def data(n, **options):
    trees = [tp.MessageTree([1, 2, 3], labels=[1, 2, 3], weight=1.0 + i % 2) for i in range(n)]
    return tp.PackedDataset(trees, budgets={"tokens": 6}, pool_size=4, **options)


def train(tmp_path, source, **options):
    settings = {"max_steps": 4, "logging_steps": 1, "save_strategy": "no", "report_to": []}
    args = hf.TrainingArguments(str(tmp_path), use_cpu=True, **{**settings, **options})
    trainer = tp.hf.PackedTrainer(model(), args, train_dataset=source)
    return trainer, trainer.train()


def test_logs_hold_the_statistics_of_the_rows_and_examples_are_counted(tmp_path):
    trainer, result = train(tmp_path, data(8))
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(logs) == 4
    assert all(entry["treepack/fill_tokens"] == 1.0 for entry in logs)
    assert all(entry["treepack/packing_ratio"] == 2.0 for entry in logs)
    assert [entry["treepack/rows_total"] for entry in logs] == [1, 2, 3, 4]
    runtime = result.metrics["train_runtime"]
    assert result.metrics["train_samples_per_second"] == pytest.approx(8 / runtime, abs=1e-3)


def test_packs_that_were_made_before_say_how_many_steps_there_are(tmp_path, caplog):
    packs = SimpleNamespace(offsets=np.arange(0, 11, 2), members=np.arange(10))
    source = data(10, packs=packs, epochs=2)
    options = {"max_steps": -1, "gradient_accumulation_steps": 3}
    with caplog.at_level(logging.WARNING, "treepack"):
        trainer, _ = train(tmp_path, source, **options)
    assert trainer.state.global_step == trainer.state.max_steps == 3
    assert not caplog.text
    with pytest.raises(ValueError, match="max_steps"):
        train(tmp_path, data(10), **options)


def test_data_that_ends_early_is_told_and_none_is_an_error(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "treepack"):
        trainer, _ = train(tmp_path, data(4), max_steps=50)
    assert trainer.state.global_step == 2
    assert "after 2 of 50 steps" in caplog.text
    dropped = tp.PackedDataset(
        [tp.MessageTree([1] * 9, labels=[1] * 9)], budgets={"tokens": 6}, oversize="drop"
    )
    with pytest.raises(DatasetError, match="gave no packs"):
        train(tmp_path, dropped)


@pytest.mark.parametrize(
    ("options", "source", "told"),
    [
        ({"save_strategy": "steps"}, {}, True),
        ({"save_strategy": "no"}, {}, False),
        ({"save_strategy": "steps"}, {"virtual_shards": 1}, False),
    ],
)
def test_what_a_checkpoint_needs_is_told_at_the_start(tmp_path, caplog, options, source, told):
    with caplog.at_level(logging.WARNING, "treepack"):
        train(tmp_path, data(8, **source), **options)
    assert ("virtual_shards is not set" in caplog.text) == told


def test_smoothed_labels_keep_their_weights(tmp_path):
    args = hf.TrainingArguments(
        str(tmp_path), max_steps=1, use_cpu=True, report_to=[], label_smoothing_factor=0.2
    )
    trainer = tp.hf.PackedTrainer(model(), args, train_dataset=data(4))
    (batch, *_) = data(4)
    logits = trainer.model(**batch).logits[0]
    each = cross_entropy(logits, batch["targets"][0], reduction="none", label_smoothing=0.2)
    weights = batch["loss_weights"][0]
    expected = (each * weights).sum() / weights.sum()
    assert torch.allclose(trainer.compute_loss(trainer.model, batch), expected)
    assert not torch.allclose(trainer.model(**batch).loss, expected)
    assert args.label_smoothing_factor == 0.2


def test_tokens_are_counted_without_an_attention_mask(tmp_path):
    trainer, _ = train(tmp_path, data(8), include_num_input_tokens_seen="non_padding")
    assert trainer.state.num_input_tokens_seen > 0
