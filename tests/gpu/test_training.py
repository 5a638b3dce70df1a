"""Train steps of whole models on a GPU, under the compiler and autocast too."""

from __future__ import annotations

import pytest
import torch
import transformers
import treepack as tp
from helpers import tiny_models
from helpers.cases import cases
from helpers.devices import DEVICE, on_a_gpu
from helpers.text_rows import compiled, random_trees
from treepack.check.doctor.findings import OK
from treepack.check.doctor.model import check_model

SIZES = {**tiny_models.TEXT, "vocab_size": 50, "hidden_size": 32, "head_dim": 16}
MODELS = {
    "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES)),
    "qwen3": lambda: transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**SIZES)),
    "mistral": lambda: transformers.MistralForCausalLM(
        transformers.MistralConfig(**SIZES, sliding_window=4)
    ),
}


def build(name, dtype, backend=None):
    model = tiny_models.randomised(MODELS[name]()).to(torch.bfloat16)
    return tp.hf.prepare(model.to(DEVICE, dtype), backend)


def step(model, batch):
    """The loss and the gradients, in float64 on the CPU."""
    loss = model(**batch).loss
    loss.backward()
    results = [loss.detach(), *(p.grad for p in model.parameters())]
    model.zero_grad()
    return [x.cpu().double() for x in results]


def squares(results, exact):
    """Of the errors: of the loss, and of all gradients together."""
    loss, *grads = ((x - y).square().sum() for x, y in zip(results, exact, strict=True))
    return torch.stack([loss, sum(grads)])


@on_a_gpu
@pytest.mark.parametrize("is_compiled", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_a_step_is_as_exact_as_a_plain_implementation(name, is_compiled):
    torch._dynamo.reset()
    model, plain = (build(name, torch.bfloat16, backend) for backend in (None, "reference"))
    float64 = build(name, torch.float64, "reference")
    run, counter = compiled(model) if is_compiled else (model, None)
    ours, theirs = [], []
    for rng in cases(6, f"a step of {name}"):
        batch = tp.collate(
            random_trees(rng, 3), total=160, sliding_windows=tp.hf.sliding_windows(model)
        )
        batch = batch.to(DEVICE)
        exact = step(float64, batch)
        ours.append(squares(step(run, batch), exact))
        theirs.append(squares(step(plain, batch), exact))
    assert (sum(ours) <= 4 * sum(theirs)).all()
    assert counter is None or counter.frame_count <= 2
    torch._dynamo.reset()


@on_a_gpu
def test_a_float32_model_runs_under_autocast():
    model, plain = (build("qwen3", torch.float32, backend) for backend in (None, "reference"))
    float64 = build("qwen3", torch.float64, "reference")
    ours, theirs = [], []
    for rng in cases(6, "autocast"):
        batch = tp.collate(random_trees(rng, 3), total=160).to(DEVICE)
        exact = step(float64, batch)
        with torch.autocast(DEVICE.type, torch.bfloat16):
            ours.append(squares(step(model, batch), exact))
            theirs.append(squares(step(plain, batch), exact))
    assert (sum(ours) <= 4 * sum(theirs)).all()


def test_the_model_of_the_doctor():
    found = check_model(DEVICE)
    assert found.result == OK, found
