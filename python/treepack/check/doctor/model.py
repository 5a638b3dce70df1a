"""A compiled text model: one graph from batch to loss, for rows that differ."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import torch
from torch import Tensor

from treepack.check.doctor.exactness import TIMES
from treepack.check.doctor.findings import OK, SKIPPED, WRONG, Finding
from treepack.options import AttentionBackend

TOTAL, ROWS, VOCABULARY = 160, 4, 50

MOST_GRAPHS = 2
"""One of the first row, and one that fits all others, whose number of targets is another."""

NAME = "compiled whole"


def check_model(device: torch.device) -> Finding:
    """Train steps of a tiny Llama on a few rows, beside the same with the mask written out."""
    if importlib.util.find_spec("transformers") is None:
        return Finding("model", NAME, SKIPPED, "transformers is not installed")
    from torch._dynamo.testing import CompileCounterWithBackend

    torch._dynamo.reset()
    model, plain = (tiny_model(device, torch.bfloat16, name) for name in (None, "reference"))
    exact = tiny_model(device, torch.float64, "reference")
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    ours, theirs = [], []
    for batch in _batches(device):
        expected = step(exact, exact, batch)
        ours.append(errors_of(step(compiled, model, batch), expected))
        theirs.append(errors_of(step(plain, plain, batch), expected))
    torch._dynamo.reset()
    return _judge(sum(ours, torch.zeros(2)), sum(theirs, torch.zeros(2)), counter.frame_count)


def _judge(ours: Tensor, theirs: Tensor, graphs: int) -> Finding:
    good = bool((ours <= TIMES**2 * theirs).all()) and graphs <= MOST_GRAPHS
    ratio = float((ours[1] / theirs[1]).sqrt())
    note = f"graphs: {graphs} for {ROWS} rows; error of gradients {ratio:.2f} x plain"
    figures = {"graphs": graphs, "ours": ours.tolist(), "plain": theirs.tolist()}
    return Finding("model", NAME, OK if good else WRONG, note, figures)


def tiny_model(device: torch.device, dtype: torch.dtype, backend: AttentionBackend | None) -> Any:
    """A Llama of one layer with fixed weights, prepared for packed rows."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from treepack.hf import prepare

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=64,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
        )
        model = LlamaForCausalLM(config)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, 0.0, 0.1)
    # The numbers are those of bfloat16 in every dtype.
    return prepare(model.to(torch.bfloat16).to(device, dtype).train(), backend)


def _batches(device: torch.device) -> list[Any]:
    from treepack.batch import collate

    rng = np.random.default_rng(0)
    several = [[_tree(rng, n) for n in rng.integers(0, 5, 3)] for _ in range(ROWS)]
    return [collate(trees, total=TOTAL).to(device) for trees in several]


def _tree(rng: np.random.Generator, branches: int) -> Any:
    from treepack.tree import MessageTree

    def tokens() -> Any:
        return rng.integers(0, VOCABULARY, rng.integers(2, 9))

    children = [MessageTree(x, labels=x) for x in (tokens() for _ in range(branches))]
    root = tokens()
    return MessageTree(root, labels=root, children=children)


def step(run: Any, model: Any, batch: Any) -> list[Tensor]:
    """The loss and the gradients, in float64 on the CPU."""
    loss = run(**batch).loss
    loss.backward()
    results = [loss.detach(), *(p.grad for p in model.parameters())]
    model.zero_grad()
    return [x.cpu().double() for x in results]


def errors_of(results: list[Tensor], exact: list[Tensor]) -> Tensor:
    """Square errors: of the loss, and of all gradients together."""
    loss, *grads = ((x - y).square().sum() for x, y in zip(results, exact, strict=True))
    return torch.stack([loss, torch.stack(grads).sum()])
