"""The code of docs/guide/trainers.md runs as it stands, and its loops train alike."""

from __future__ import annotations

import contextlib
import itertools
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers as hf
import treepack as tp
from helpers import tiny_models
from helpers.processes.ranks import run_ranks
from helpers.processes.sequence_training import train_on_page
from torch.nn.functional import logsigmoid
from torch.utils.data import DataLoader

PAGE = (Path(__file__).parents[2] / "docs" / "guide" / "trainers.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
LOOP, STATISTICS, TRAINER, ACCELERATE, LIGHTNING, SEQUENCE, *REST = BLOCKS
EVALUATION, GENERATION, TREES, DEFERRED, PREFERENCES = REST
RATE = 0.1

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def make_model():
    config = hf.LlamaConfig(**tiny_models.TEXT, vocab_size=300)
    return tiny_models.randomised(hf.LlamaForCausalLM(config)).float()


def make_data(n=60):
    return tp.PackedDataset(make_trees(n), budgets={"tokens": 64}, pool_size=6, virtual_shards=2)


def make_trees(n):
    rng = np.random.default_rng(3)

    def node(weight, children=()):
        ids = rng.integers(0, 300, rng.integers(2, 9))
        return tp.MessageTree(ids, labels=ids, weight=0.1 * weight, children=children)

    return [node(1 + i % 2, [node(1 + j) for j in range(i % 4)]) for i in range(n)]


def names(model=None, **more):
    model = tp.hf.prepare(make_model()) if model is None else model
    return {
        "tp": tp,
        "torch": torch,
        "DataLoader": DataLoader,
        "device": "cpu",
        "world": 1,
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), RATE),
        "dataset": make_data(),
        "save_at": 2,
        **more,
    }


def assert_same(ours, theirs):
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def trained():
    """By the loop, until the data ends."""
    whole = names(save_at=-1)
    exec(LOOP, whole)
    assert whole["step"] > 4
    return whole["model"]


def test_the_loop_goes_on_from_its_checkpoint():
    stopped = names()
    exec(LOOP, stopped)
    saved = torch.load("checkpoint.pt")
    rest = names(save_at=-1)
    rest["model"].load_state_dict(saved["model"])
    rest["optimizer"].load_state_dict(saved["optimizer"])
    rest["dataset"].load_state_dict(saved["data"])
    exec(LOOP, rest)
    assert rest["step"] == stopped["step"] - 3
    assert_same(rest["model"], trained())


def test_statistics_reach_the_loggers():
    logged, written = [], []
    loggers = {
        "wandb": SimpleNamespace(log=lambda report, step: logged.append((step, report))),
        "writer": SimpleNamespace(add_scalar=lambda *scalar: written.append(scalar)),
        "loader": make_data(200),
    }
    exec(STATISTICS, names(**loggers))
    assert [step for step, _ in logged] == list(range(9, 10 * len(logged), 10)) != []
    assert written == [(name, x, step) for step, report in logged for name, x in report.items()]


def training_arguments(folder, **options):
    """Those of the page, and what the other loops do."""
    sgd = {"optim": "sgd", "learning_rate": RATE, "lr_scheduler_type": "constant"}
    more = {"max_grad_norm": 0, "use_cpu": True, "report_to": "none", "disable_tqdm": True}
    return hf.TrainingArguments(folder, **{**options, **sgd, **more})


def test_the_trainer_and_accelerate_train_as_the_loop_does():
    whole = trained()
    more = {"TrainingArguments": training_arguments, "validation": make_data(9)}
    trainer = names(make_model(), **more)
    exec(TRAINER, trainer)
    assert_same(trainer["model"], whole)

    from accelerate import Accelerator

    tools = {"Accelerator": lambda: Accelerator(cpu=True), "nullcontext": contextlib.nullcontext}
    prepared = names(make_model(), **tools)
    exec(ACCELERATE, prepared)
    assert_same(prepared["model"], whole)

    evaluated = names(trainer["model"], validation=make_data(9))
    exec(EVALUATION, evaluated)
    assert evaluated["loss"] == pytest.approx(trainer["trainer"].evaluate()["eval_loss"], rel=1e-6)


def test_a_prepared_model_generates():
    plain = make_model().eval()
    inputs = {"input_ids": torch.tensor([[5, 6, 7]]), "do_sample": False}
    answers = names(tp.hf.prepare(make_model().eval()), inputs=inputs)
    exec(GENERATION, answers)
    assert torch.equal(answers["answer"], plain.generate(**inputs, max_new_tokens=8))
    assert answers["model"].config._attn_implementation == "sdpa"


@pytest.mark.filterwarnings("ignore")
def test_lightning_trains_as_the_loop_does():
    lightning = pytest.importorskip("lightning")
    from treepack.lightning import PackedSteps

    made = names(make_model(), lightning=lightning, PackedSteps=PackedSteps, devices=1)
    exec(LIGHTNING, made)
    whole = names(save_at=-1)
    exec(LOOP.replace("accumulate=2", "accumulate=1"), whole)
    assert made["trainer"].global_step == whole["step"] + 1
    assert_same(made["model"], whole["model"])


def test_ranks_that_share_rows_train_as_the_loop_does():
    source = make_trees(200)
    whole = names(save_at=-1, dataset=tp.PackedDataset(source, budgets={"tokens": 256}))
    exec(LOOP, whole)
    assert whole["step"] > 2
    for found in run_ranks(2, train_on_page, SEQUENCE, LOOP, source):
        for name, wanted in whole["model"].state_dict().items():
            torch.testing.assert_close(found[name], wanted, rtol=0, atol=1e-6)


def example_data(n=12):
    tokenizer = tiny_models.byte_tokenizer()
    examples = [(f"Is {i} even?", [["yes", "no"], ["no", "yes"]][i % 2]) for i in range(n)]
    made = names(tokenizer=tokenizer, examples=examples)
    exec(TREES, made)
    return made


def test_trees_of_your_own_train_a_text_model():
    made = example_data()
    exec(LOOP, {**made, "save_at": -1})
    keys = list(itertools.chain.from_iterable(b["treepack"].keys for b in made["dataset"]))
    assert sorted(keys) == list(range(12))
    end = made["tokenizer"].eos_token_id
    assert sum((b["targets"] == end).sum().item() for b in made["dataset"]) == 24


def test_preferences_are_those_of_each_response_alone():
    made = example_data()
    tools = {"logsigmoid": logsigmoid}
    for tree in made["trees"]:
        for answer, role in zip(tree.children, ("chosen", "rejected"), strict=True):
            answer.role = role
    batch = next(iter(made["dataset"]))
    made = {**made, **tools, "batch": batch}
    exec(PREFERENCES, made)
    made["loss"].backward()
    assert made["model"].lm_head.weight.grad.abs().max() > 0

    plain, found = make_model(), []
    for key in batch["treepack"].keys:
        tree = made["trees"][key]
        for answer in tree.children:
            ids = torch.tensor([[*tree.tokens, *answer.tokens, answer.end_target]])
            scores = plain(ids[:, :-1]).logits[0].float().log_softmax(-1)
            each = scores.gather(1, ids[0, 1:, None])[len(tree.tokens) - 1 :]
            found.append(each.sum().item())
    assert made["chosen"].tolist() == pytest.approx(found[::2], rel=1e-4)
    assert made["rejected"].tolist() == pytest.approx(found[1::2], rel=1e-4)


def test_vision_language_models_take_trees_with_their_processor():
    processor = tiny_models.molmo2_processor()
    trees = [
        tp.MessageTree(tree.tokens, children=tree.children, costs={"crops": 0})
        for tree in example_data()["trees"]
    ]
    budgets = {"tokens": 256, "crops": 1}
    dataset = tp.PackedDataset(trees, budgets=budgets, processor=processor)
    model = tp.hf.prepare(tiny_models.molmo2_model())
    assert all(model(**batch).loss > 0 for batch in dataset)


def test_logits_can_be_deferred():
    batch = next(iter(make_data()))
    made = names(make_model(), batch=batch)
    exec(DEFERRED, made)
    plain = tp.hf.prepare(make_model())(**batch)
    scores = plain.logits.log_softmax(-1)
    entropy = -(scores.exp() * scores).sum(-1)
    torch.testing.assert_close(made["out"].loss, plain.loss)
    torch.testing.assert_close(made["entropy"], entropy, rtol=1e-5, atol=1e-5)
    each = scores.gather(-1, batch["targets"][..., None])[..., 0]
    torch.testing.assert_close(made["logprobs"], each, rtol=1e-5, atol=1e-5)
    made["surprise"].backward()
