"""What each rank of the sequence-parallel tests runs: whole rows alone, then shared with others."""

from __future__ import annotations

import copy
import functools
from contextlib import contextmanager

import numpy as np
import torch
import torch.distributed as dist
import transformers as hf
import treepack as tp
from helpers import tiny_models, zoo
from helpers.text_rows import random_trees, stock_model
from helpers.unrounded import unrounded
from helpers.zoo.examples import rows
from treepack import families
from treepack.hf.attention import tree_attention_forward

WINDOW = 5
# Query and key heads; 3 and 2 ranks, 2 and 4 ranks, 3 and 4 ranks do not divide each other.
HEADS = {"1 key head": (4, 1), "2 key heads": (4, 2), "3 key heads": (12, 3), "all": (4, 4)}
WITH_IMAGES = ("molmo2", "qwen3_vl", "gemma3")


def text_model(heads, keys):
    return stock_model("qwen3", num_attention_heads=heads, num_key_value_heads=keys)


def windowed_model(name):
    config, model = {
        "mistral": (hf.MistralConfig, hf.MistralForCausalLM),
        "gemma3": (hf.Gemma3TextConfig, hf.Gemma3ForCausalLM),
    }[name]
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 50}
    kinds = {"layer_types": ["sliding_attention", "full_attention"]} if name == "gemma3" else {}
    sizes = {**tiny_models.TEXT, **heads, **kinds}
    return tiny_models.randomised(model(config(**sizes, sliding_window=WINDOW)))


def text_rows(targets="everywhere"):
    """Rows of an odd length, one with padding, one shorter than some numbers of ranks."""
    rng = np.random.default_rng(8)
    yield tp.collate(random_trees(rng, 3))
    yield tp.collate(random_trees(rng, 2), total=61)
    yield tp.collate([tp.MessageTree([7, 8, 9], labels=[7, 8, 9])])
    # Targets of the first rank alone: the others have a part of the row, and none of the loss.
    tail = tp.MessageTree(rng.integers(0, 50, 40))
    yield tp.collate([tp.MessageTree([5, 6, 7], labels=[5, 6, 7], children=[tail])])


def image_rows(name):
    """A row of images, and one of images and videos where the family has them."""
    family = families.find(zoo.build(name)[0])
    for kind, examples in rows(name):
        if kind == "videos":
            continue
        loaded = [x if isinstance(x, tp.MessageTree) else family.load(x) for x in examples]
        yield tp.collate(loaded, family=family, bidirectional=family.bidirectional).to(
            "cpu", torch.float64
        )


def of_image_model(name):
    # The tiny models have 2 heads.
    tiny_models.TEXT.update(num_attention_heads=4)
    # Some biases keep the random numbers that they are made with.
    torch.manual_seed(0)
    return zoo.build(name)[1], list(image_rows(name))


CASES = {
    **{f"text, {name}": functools.partial(text_model, *heads) for name, heads in HEADS.items()},
    **{
        f"window, {name}": functools.partial(windowed_model, name) for name in ("mistral", "gemma3")
    },
}


def all_of_it(rank, world):
    """What `compare` finds, by case, number of the row and whether it was checkpointed."""
    group, found = dist.group.WORLD, {}
    for name, make in CASES.items():
        found |= _of(name, make(), list(text_rows()), group)
    for name in WITH_IMAGES:
        found |= _of(f"images, {name}", *of_image_model(name), group)
    return found


def _of(name, model, batches, group):
    with unrounded():
        found = {
            (name, number, False): compare(model, batch, group)
            for number, batch in enumerate(batches)
        }
        return {**found, (name, 0, True): compare(model, batches[0], group, checkpointed=True)}


def compare(model, batch, group, checkpointed=False):
    """Differences between a row computed alone and one that the ranks of a group share.

    With checkpointing the ranks defer their logits, too.
    """
    alone = tp.hf.prepare(copy.deepcopy(model))
    logits = "deferred" if checkpointed else "full"
    shared = tp.hf.prepare(copy.deepcopy(model), sequence_parallel=group, logits=logits)
    if checkpointed:
        enable = getattr(shared, "activation_checkpointing_enable", None)
        (enable or shared.gradient_checkpointing_enable)()
    whole = alone(**batch)
    whole.loss.backward()
    with attended() as lengths:
        out = shared(**batch)
    out.loss.backward()
    loss = mean(out.loss.detach().clone(), group)
    gradients = {name: mean(p.grad, group) for name, p in shared.named_parameters()}
    wanted = {name: p.grad for name, p in alone.named_parameters()}
    reached = {name for name, grad in wanted.items() if grad is not None}
    largest = max(wanted[name].abs().max() for name in reached)
    ranks = dist.get_world_size(group)
    return {
        "loss": abs(loss - whole.loss).item(),
        "value": whole.loss.item(),
        "gradients": max((gradients[n] - wanted[n]).abs().max().item() for n in reached) / largest,
        "same": reached == {name for name, grad in gradients.items() if grad is not None},
        "targets": out.logits.shape[-2],
        "all targets": whole.logits.shape[-2],
        "tokens": sorted(set(lengths)),
        "tokens of the row": batch["treepack"].mask.total,
        "share": -(-batch["treepack"].mask.total // ranks),
    }


def mean(x, group):
    """Over the ranks of a group, as DDP and FSDP take it of gradients."""
    if x is not None:
        dist.all_reduce(x, group=group)
        x /= dist.get_world_size(group)
    return x


@contextmanager
def attended():
    """How many tokens of the row each layer has computed."""
    from transformers import AttentionInterface

    lengths = []

    def spy(module, query, *rest, **options):
        lengths.append(query.shape[2])
        return tree_attention_forward(module, query, *rest, **options)

    AttentionInterface.register("treepack", spy)
    yield lengths
    AttentionInterface.register("treepack", tree_attention_forward)
