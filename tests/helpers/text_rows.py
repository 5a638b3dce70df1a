"""Tiny text models with tree attention, and random rows as they take them."""

from __future__ import annotations

import numpy as np
import torch
import treepack as tp
from helpers import tiny_models
from helpers.random_masks import random_forest
from torch._dynamo.testing import CompileCounterWithBackend
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM
from treepack.attention import TreePlan
from treepack.batch import PackedRow

VOCABULARY = 50
CAUSAL = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen3": (Qwen3Config, Qwen3ForCausalLM)}
MODELS = ("llama", "qwen3", "molmo2")


def language_model(name, dtype=torch.float64):
    """The text model alone, from token ids to hidden states; attention is ``treepack``."""
    if name == "molmo2":
        model = tiny_models.molmo2_model().model.language_model
    else:
        model = causal_model(name).model
    tp.hf.register()
    model.set_attn_implementation("treepack")
    return model.to(dtype)


def stock_model(name, **sizes):
    """A model of transformers as it comes, in float64."""
    config, model = CAUSAL[name]
    sizes = {**tiny_models.TEXT, "vocab_size": VOCABULARY, **sizes}
    return tiny_models.randomised(model(config(**sizes)))


def causal_model(name="qwen3", **sizes):
    """A model for ``model(**batch).loss``, in float64."""
    return tp.hf.prepare(stock_model(name, **sizes))


def random_row(rng, total=None, mode=None, **forest):
    """A mask, and the row that has it, with at least one token of padding."""
    drawn = random_forest(rng, mode=mode, **forest)
    mask = tp.TreeMask.from_nodes(*drawn._replace(total=total or drawn.total + 1))
    inputs = {
        "input_ids": torch.from_numpy(rng.integers(0, VOCABULARY, (1, mask.total))),
        "position_ids": torch.from_numpy(mask.positions()),
        "use_cache": False,
        "treepack": PackedRow(mask, TreePlan.from_mask(mask)),
    }
    return mask, inputs


def paths(mask):
    """Row positions of each path from a root to a leaf, int64 tensors, in the order of the row."""
    parents = mask.node_parent.tolist()
    found = []
    for leaf in sorted(set(range(mask.n_nodes)) - set(parents)):
        path = [leaf]
        while parents[path[-1]] >= 0:
            path.append(parents[path[-1]])
        pieces = [np.arange(mask.node_start[i], mask.node_end[i]) for i in reversed(path)]
        found.append(torch.from_numpy(np.concatenate(pieces)))
    return found


def random_trees(rng, count):
    """Roots with branches, or none, that are trained on with weights that differ."""
    return [random_tree(rng, branches) for branches in rng.integers(0, 5, count)]


def random_tree(rng, branches):
    def node(children=()):
        tokens = rng.integers(0, VOCABULARY, rng.integers(2, 9))
        weight = float(rng.uniform(0.2, 3))
        return tp.MessageTree(tokens, labels=tokens, weight=weight, children=children)

    return node([node() for _ in range(branches)])


def loss_of(model, mask, inputs):
    """Something that every token of the row has a part in."""
    return model(**inputs).last_hidden_state[0, : mask.used].square().sum()


def compiled(model):
    """The model as one graph, and a counter of the graphs that this took."""
    counter = CompileCounterWithBackend("aot_eager")
    return torch.compile(model, fullgraph=True, backend=counter), counter


def gradients(model, loss):
    """Of every parameter that the loss depends on; the model keeps none."""
    loss.backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def distance(ours, theirs):
    """Largest difference of two sets of gradients, in parts of the largest gradient."""
    assert ours.keys() == theirs.keys()
    largest = max(grad.abs().max() for grad in theirs.values())
    assert largest > 0
    return max((ours[name] - theirs[name]).abs().max().item() for name in theirs) / largest.item()
