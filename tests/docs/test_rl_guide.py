"""The code of docs/guide/rl.md runs as it stands, and is the loss of each response alone."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import treepack as tp
from helpers import cases, tiny_models
from helpers.text_rows import VOCABULARY, causal_model
from torch.nn.functional import logsigmoid

PAGE = (Path(__file__).parents[2] / "docs" / "guide" / "rl.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
LOGPROBS, IMAGES, TRL, ASYNC, CHANNELS, *LOSSES = BLOCKS


def names(**more):
    made = {"tp": tp, "torch": torch, "logsigmoid": logsigmoid, **more}
    for block in LOSSES:
        exec(block, made)
    return made


def random_batch(rng, roles=(None,)):
    """A row of prompts with responses that carry numbers, and what each response is alone."""
    trees, alone = [], []
    for _ in range(2):
        prompt = rng.integers(0, VOCABULARY, rng.integers(1, 5)).tolist()
        children = []
        for role in roles * 2:
            ids = rng.integers(0, VOCABULARY, rng.integers(1, 5)).tolist()
            channels = {name: rng.normal(size=len(ids)) for name in ("advantage", "ref_logp")}
            channels["old_logp"] = channels["ref_logp"] + rng.normal(0, 0.3, len(ids))
            weight = float(rng.uniform(0.2, 2))
            child = tp.MessageTree(ids, labels=ids, role=role, channels=channels, weight=weight)
            children.append(child)
            alone.append((prompt, child))
        trees.append(tp.MessageTree(prompt, children=children))
    return tp.collate(trees), alone


def logits_alone(model, prompt, child):
    ids = torch.tensor([[*prompt, *child.tokens]])
    with tp.hf.restore(model):
        logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1)


def logp_alone(model, prompt, child):
    return logits_alone(model, prompt, child).gather(1, torch.from_numpy(child.tokens)[:, None])[
        :, 0
    ]


def channel(child, name):
    return torch.from_numpy(child.channels[name]).double()


def close(a, b):
    torch.testing.assert_close(a, b, rtol=2e-6, atol=1e-6)


def check(model, ours, theirs):
    """The same loss and the same gradients; channels are float32."""
    close(ours.double(), theirs.double())
    gradients = []
    for loss in (ours, theirs):
        loss.backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
        model.zero_grad()
    for name, gradient in gradients[0].items():
        close(gradient, gradients[1][name])


def test_log_probabilities():
    model = causal_model()
    responses = [[[4, 5], [6]]]
    made = names(model=model, prompts=[[1, 2, 3]], responses=responses, rewards=[1.0, -0.5])
    exec(LOGPROBS, made)
    theirs = [logp_alone(model, [1, 2, 3], tp.MessageTree(ids)).mean() for ids in responses[0]]
    close(made["loss"], -(theirs[0] - 0.5 * theirs[1]))


def test_prompts_with_images():
    processor, model = tiny_models.qwen3_vl_processor(), tiny_models.qwen3_vl_model()
    mark = "<|vision_start|><|image_pad|><|vision_end|>"
    asked = [(f"{mark}What?", tiny_models.photo(n)) for n in range(2)]
    made = names(
        model=tp.hf.prepare(model), processor=processor, asked=asked, responses=[[[4, 5]], [[6]]]
    )
    exec(IMAGES, made)
    assert [[len(each) for each in part] for part in made["scores"].logprobs] == [[2], [1]]


def test_channels_come_out_next_to_the_targets():
    made = names(
        prompt=[1, 2], responses=[[3], [4, 5]], advantages=[0.5, -1], old_logps=[[-2], [-3, -4]]
    )
    exec(CHANNELS, made)
    row = made["row"]
    assert row.channels["advantage"].tolist() == [0.5, -1, -1]
    assert row.channels["old_logp"].tolist() == [-2, -3, -4]
    assert row.response_ids == (None, 0, 1)


def test_the_async_trainer_is_one_line():
    exec(ASYNC, names())


def test_clipped_losses():
    model = causal_model()
    for rng in cases.cases(3, "clipped loss"):
        batch, alone = random_batch(rng)
        ours = names()["clipped_loss"](model, batch, 0.1, 0.3, beta=0.04)
        parts = []
        for prompt, child in alone:
            logp, advantage = logp_alone(model, prompt, child), channel(child, "advantage")
            ratio = (logp - channel(child, "old_logp")).exp()
            clipped = torch.minimum(ratio * advantage, ratio.clamp(0.9, 1.3) * advantage)
            kl = (channel(child, "ref_logp") - logp).exp() - channel(child, "ref_logp") + logp - 1
            parts.append((0.04 * kl - clipped).mean())
        check(model, ours, torch.stack(parts).mean())


def margins(model, alone, *roles):
    found = {role: [] for role in roles}
    for prompt, child in alone:
        found[child.role].append(
            (logp_alone(model, prompt, child) - channel(child, "ref_logp")).sum()
        )
    return [torch.stack(found[role]) for role in roles]


def test_dpo():
    model = causal_model()
    batch, alone = random_batch(np.random.default_rng(3), ("chosen", "rejected"))
    chosen, rejected = margins(model, alone, "chosen", "rejected")
    theirs = -logsigmoid(0.3 * (chosen - rejected)).mean()
    check(model, names()["dpo_loss"](model, batch, 0.3), theirs)


def test_kto():
    model = causal_model()
    batch, alone = random_batch(np.random.default_rng(4), ("good", "bad"))
    good, bad = margins(model, alone, "good", "bad")
    parts = [1 - (0.2 * (good - 0.5)).sigmoid(), 1 - (0.2 * (0.5 - bad)).sigmoid()]
    check(model, names()["kto_loss"](model, batch, 0.5, 0.2), torch.cat(parts).mean())


def test_distillation():
    model, teacher = causal_model(), causal_model("llama")
    batch, alone = random_batch(np.random.default_rng(5))
    parts, weights = [], []
    for prompt, child in alone:
        own, theirs = logits_alone(model, prompt, child), logits_alone(teacher, prompt, child)
        theirs = theirs.detach()
        parts.append(child.weight * (theirs.exp() * (theirs - own)).sum())
        weights.append(child.weight * len(child.tokens))
    check(model, names()["distillation_loss"](model, teacher, batch), sum(parts) / sum(weights))


def test_trl(monkeypatch):
    calls = []
    made = names(model="m", reward_funcs=[], args="a", dataset="d", processor="p")
    fake = type("Trainer", (), {"__init__": lambda self, *a, **k: calls.append((a, k))})
    fake.train = lambda self: calls.append("trained")
    pytest.importorskip("trl")
    monkeypatch.setattr(tp.rl, "GRPOTrainer", fake)
    exec(TRL, made)
    assert calls[-1] == "trained"
