"""`PackedTrainer`: the steps of `tp.train.steps`, and resuming as if nothing had happened."""

from __future__ import annotations

import copy
import itertools
import json
import multiprocessing

import numpy as np
import pytest
import torch
import transformers as hf
import treepack as tp
from helpers import tiny_models
from helpers.text_rows import random_trees
from helpers.tree_sources import SavedItems
from torch.utils.data import DataLoader
from treepack.errors import AttentionError, BatchError, DatasetError, StateError

STEPS, RATE = 6, 0.1
SGD = {"optim": "sgd", "learning_rate": RATE, "lr_scheduler_type": "constant", "max_grad_norm": 0}
QUIET = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "logging_steps": 1}
MODELS = {
    "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**tiny_models.TEXT, vocab_size=50)),
    # This one tells Trainer not to pass it the divisor.
    "qwen3_vl": tiny_models.qwen3_vl_model,
}

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


def make_model(name="llama"):
    return tp.hf.prepare(tiny_models.randomised(MODELS[name]()).float())


def make_data(scale=0.1, n=60, shards=2):
    """About 16 packs, whose weights differ and are small."""
    trees = random_trees(np.random.default_rng(0), n)
    for node, _ in itertools.chain.from_iterable(tree.nodes() for tree in trees):
        node.weight = scale * node.weight
    return tp.PackedDataset(trees, budgets={"tokens": 64}, pool_size=6, virtual_shards=shards)


class Kill(hf.TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **_):
        control.should_training_stop |= state.global_step == self.step


def make_trainer(folder, model=None, data=None, validation=None, stop=None, **options):
    args = {"max_steps": STEPS, "gradient_accumulation_steps": 2, "save_steps": 2, **SGD, **QUIET}
    return tp.hf.PackedTrainer(
        make_model() if model is None else model,
        hf.TrainingArguments(str(folder), **{**args, **options}),
        train_dataset=data or make_data(),
        eval_dataset=validation,
        callbacks=[Kill(stop)],
    )


def losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def train_by_hand(model, data, accumulate, steps=STEPS):
    optimizer, found = torch.optim.SGD(model.parameters(), RATE), []
    for packs, weight in itertools.islice(tp.train.steps(data, accumulate), steps):
        each = [model(**pack, num_items_in_batch=weight).loss for pack in packs]
        sum(each).backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(sum(each).item())
    return found


def assert_same(ours, theirs, atol=0.0):
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=atol)


@pytest.mark.parametrize("name", MODELS)
def test_it_trains_as_a_loop_over_the_steps_does(tmp_path, name):
    trainer = make_trainer(tmp_path, make_model(name))
    start = copy.deepcopy(trainer.model)
    trainer.train()
    model = make_model(name)
    found = train_by_hand(model, make_data(), 2)
    assert len(found) == STEPS
    np.testing.assert_allclose(losses(trainer), found, rtol=1e-6)
    # A loop that adds the losses before one backward pass rounds otherwise.
    assert_same(trainer.model, model, atol=1e-6)
    moved = [
        (a - b).abs().max() for a, b in zip(start.parameters(), model.parameters(), strict=True)
    ]
    assert max(moved) > 0.05


def test_the_scale_of_the_weights_does_not_matter(tmp_path):
    small, large = (make_trainer(tmp_path, data=make_data(scale)) for scale in (0.1, 8.0))
    small.train()
    large.train()
    np.testing.assert_allclose(losses(small), losses(large), rtol=1e-5)
    assert_same(small.model, large.model, atol=1e-5)


@pytest.mark.parametrize(("workers", "stop", "name"), [(0, 3, "llama"), (2, 5, "qwen3_vl")])
def test_a_job_that_stopped_goes_on_as_if_it_had_not(tmp_path, workers, stop, name):
    whole = make_trainer(tmp_path / "whole", make_model(name))
    whole.train()
    make_trainer(tmp_path / "part", make_model(name), stop=stop).train()
    rest = make_trainer(tmp_path / "part", make_model(name), dataloader_num_workers=workers)
    rest.train(resume_from_checkpoint=True)
    assert rest.state.global_step == STEPS
    assert losses(rest) == losses(whole)
    assert_same(rest.model, whole.model)
    assert rest.train_dataset.state_dict() == whole.train_dataset.state_dict()


def test_it_ends_with_the_data(tmp_path):
    data = make_data()
    full = len(list(data)) // 2
    trainer = make_trainer(tmp_path, data=data, max_steps=10**12, save_strategy="no")
    trainer.train()
    assert trainer.state.global_step == full
    assert len(losses(trainer)) == full


def test_evaluation_is_the_weighted_mean_and_leaves_training_alone(tmp_path):
    plain = make_trainer(tmp_path / "plain")
    plain.train()
    data = make_data()
    often = {"eval_strategy": "steps", "eval_steps": 1, "eval_on_start": True}
    sets = {"same": data, "other": make_data(n=7)}
    trainer = make_trainer(tmp_path / "evaluated", None, data, sets, **often)
    trainer.train()
    assert_same(trainer.model, plain.model)
    assert data.state_dict() == plain.train_dataset.state_dict()

    model, total, weight = trainer.model.eval(), 0.0, 0.0
    for pack in make_data():
        share = pack["loss_weights"].sum().item()
        total, weight = total + model(**pack).loss.item() * share, weight + share
    found = trainer.evaluate()
    assert found.keys() == {"eval_same_loss", "eval_other_loss", "epoch"}
    assert found["eval_same_loss"] == pytest.approx(total / weight, rel=1e-6)
    logged = [entry for entry in trainer.state.log_history if "eval_same_loss" in entry]
    assert len(logged) == STEPS + 2


def test_processes_of_the_loader_end_with_the_training(tmp_path):
    trainer = make_trainer(tmp_path, stop=1, dataloader_num_workers=2)
    trainer.train()
    assert trainer.state.global_step == 1
    assert not multiprocessing.active_children()


def test_what_cannot_be_right_is_rejected(tmp_path):
    with pytest.raises(AttentionError, match=r"LlamaForCausalLM.*tp\.hf\.prepare"):
        make_trainer(tmp_path, MODELS["llama"]())
    restored = make_model()
    tp.hf.restore(restored)
    with pytest.raises(AttentionError, match=r"tp\.hf\.prepare"):
        make_trainer(tmp_path, restored)
    with pytest.raises(DatasetError, match=r"average_tokens_across_devices=False.*torchrun"):
        make_trainer(tmp_path, average_tokens_across_devices=False)


def test_a_checkpoint_without_the_state_of_the_data_is_rejected(tmp_path):
    make_trainer(tmp_path, max_steps=2).train()
    state = tmp_path / "checkpoint-2" / "trainer_state.json"
    known = json.loads(state.read_text())
    assert known["stateful_callbacks"].pop("treepack")
    state.write_text(json.dumps(known))
    with pytest.raises(StateError, match="checkpoint of step 2 has no state of the data"):
        make_trainer(tmp_path).train(resume_from_checkpoint=True)


class Once:
    """An iterable that cannot say where it is."""

    def __init__(self, trees):
        self.trees = trees

    def __iter__(self):
        yield from self.trees


def test_a_source_that_cannot_go_back_trains_and_saves(tmp_path):
    data = tp.PackedDataset(Once(make_data().source), budgets={"tokens": 64}, pool_size=6)
    make_trainer(tmp_path, data=data, max_steps=2).train()
    assert (tmp_path / "checkpoint-2" / "model.safetensors").exists()
    with pytest.raises(StateError, match="cannot go back"):
        make_trainer(tmp_path, data=make_data()).train(resume_from_checkpoint=True)


def test_the_arguments_are_left_as_they_were(tmp_path):
    args = hf.TrainingArguments(str(tmp_path), max_steps=1, **QUIET)
    before = args.to_dict()
    tp.hf.PackedTrainer(make_model(), args, train_dataset=make_data())
    assert args.to_dict() == before


def test_only_packed_data_can_be_used(tmp_path):
    for data in ([{"input_ids": [1, 2]}], None):
        with pytest.raises(DatasetError, match="train_dataset must be a PackedDataset"):
            make_trainer(tmp_path, data=data or [1]).train()
    trainer = make_trainer(tmp_path)
    for data in (None, [1]):
        with pytest.raises(DatasetError, match="eval_dataset must be a PackedDataset"):
            trainer.evaluate(data)
    empty = tp.PackedDataset([tp.MessageTree([1] * 9)], budgets={"tokens": 4}, oversize="drop")
    with pytest.raises(DatasetError, match="no packs"):
        trainer.evaluate(empty)


def test_attention_alone_is_not_enough(tmp_path):
    model = make_model()
    tp.hf.restore(model)
    model.set_attn_implementation("treepack")
    with pytest.raises(AttentionError, match=r"tp\.hf\.prepare"):
        make_trainer(tmp_path, model=model)


def test_evaluation_leaves_an_iterable_where_it_is(tmp_path):
    data = tp.PackedDataset(SavedItems(make_data().source), budgets={"tokens": 64}, pool_size=6)
    trainer = make_trainer(tmp_path, data=data)
    reader = iter(data)
    rows = [next(reader) for _ in range(3)]
    assert trainer.evaluate(data)["eval_loss"] > 0
    keys = [key for row in [*rows, *reader] for key in row["treepack"].keys]
    assert sorted(keys) == list(range(60))


def test_a_stock_trainer_cannot_lose_packs(tmp_path):
    args = hf.TrainingArguments(str(tmp_path), max_steps=1, remove_unused_columns=False, **QUIET)
    stock = hf.Trainer(make_model(), args, train_dataset=make_data())
    with pytest.raises(ValueError, match="PackedTrainer"):
        stock.train()
    assert isinstance(next(iter(DataLoader(make_data(), batch_size=None))), tp.PackedBatch)


def preferences():
    answers = [tp.MessageTree([5, 6], labels=[5, 6], role=role) for role in ("chosen", "rejected")]
    trees = [tp.MessageTree([1, 2, 3 + i], children=answers) for i in range(20)]
    return tp.PackedDataset(trees, budgets={"tokens": 64}, pool_size=6)


class Preferring(tp.hf.PackedTrainer):
    def compute_loss(self, model, inputs, *_, **__):
        return model(**inputs).logits.square().mean()


def test_rejected_answers_are_not_trained_on_as_good_ones(tmp_path):
    with pytest.raises(
        BatchError, match=r"answers that are rejected \(keys .*override compute_loss"
    ):
        make_trainer(tmp_path, data=preferences()).train()
    with pytest.raises(BatchError, match="answers that are rejected"):
        make_trainer(tmp_path, validation=preferences()).evaluate()
    arguments = hf.TrainingArguments(str(tmp_path), max_steps=1, **SGD, **QUIET)
    trainer = Preferring(make_model(), arguments, train_dataset=preferences())
    assert trainer.train().global_step == 1
