"""Tree attention inside what training does to a model: it changes nothing but time and memory."""

import functools
from collections import Counter

import pytest
import torch
import treepack as tp
import treepack.attention.ops  # registers the operator
from helpers.cases import cases
from helpers.text_rows import (
    MODELS,
    causal_model,
    compiled,
    distance,
    gradients,
    language_model,
    loss_of,
    random_row,
    random_trees,
)
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts
from treepack.attention import plan as plans
from treepack.attention.backends import cpu

# Norms and the rotary embedding compute in float32 whatever the model's dtype.
GRADIENTS = 1e-6


@pytest.fixture
def calls(monkeypatch):
    """How often each direction of the operator ran; every plan has one call of kind SELF."""
    counter = Counter()
    for name in ("forward", "backward"):
        monkeypatch.setattr(cpu, name, functools.partial(_count, counter, name, getattr(cpu, name)))
    return counter


def _count(counter, name, run, call, *arguments):
    counter[name] += call.kind == plans.SELF
    return run(call, *arguments)


@pytest.fixture
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def save_attention(_context, operator, *_arguments, **_keywords):
    """Recompute everything but attention, whose output costs most to compute again."""
    keep = operator is torch.ops.treepack.attn_fwd.default
    return CheckpointPolicy.MUST_SAVE if keep else CheckpointPolicy.PREFER_RECOMPUTE


SELECTIVE = functools.partial(create_selective_checkpoint_contexts, save_attention)
CHECKPOINTING = {
    "none": (None, 1),
    "full": ({"use_reentrant": False}, 2),
    "selective": ({"use_reentrant": False, "context_fn": SELECTIVE}, 1),
}


@pytest.mark.parametrize(
    ("kind", "compiles"),
    [("none", False), ("full", False), ("full", True), ("selective", False), ("selective", True)],
)
@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable.:FutureWarning")
def test_checkpointing_runs_the_operator_as_often_as_it_says(kind, compiles, calls, fresh_compiler):
    plain, model = language_model("qwen3"), language_model("qwen3").train()
    options, runs = CHECKPOINTING[kind]
    if options is not None:
        model.gradient_checkpointing_enable(options)
    step = compiled(model)[0] if compiles else model
    layers = model.config.num_hidden_layers
    for rng in cases(3, "checkpointing"):
        mask, inputs = random_row(rng)
        wanted_loss = loss_of(plain, mask, inputs)
        wanted = gradients(plain, wanted_loss)
        calls.clear()
        loss = loss_of(step, mask, inputs)
        found = gradients(model, loss)
        assert dict(calls) == {"forward": runs * layers, "backward": layers}
        assert loss.item() == wanted_loss.item()
        assert distance(found, wanted) == 0


def test_autocast_brings_norms_and_values_to_one_dtype(monkeypatch):
    """Under autocast q and k leave their float32 norms as float32, v its projection as bfloat16."""
    from treepack.hf import attention

    seen, run = [], attention.tree_attention

    def attend(q, k, v, *rest, **options):
        seen.append((q.dtype, k.dtype, v.dtype))
        return run(q, k, v, *rest, **options)

    monkeypatch.setattr(attention, "tree_attention", attend)
    exact, model = language_model("qwen3"), language_model("qwen3", torch.float32)
    for rng in cases(5, "autocast"):
        mask, inputs = random_row(rng)
        wanted = exact(**inputs).last_hidden_state[0, : mask.used].detach()
        dense = torch.from_numpy(mask.to_dense()) | torch.eye(mask.total, dtype=torch.bool)
        plain = {**inputs, "attention_mask": dense[None, None]}
        with torch.autocast("cpu", torch.bfloat16):
            seen.clear()
            ours = model(**inputs).last_hidden_state[0, : mask.used]
            assert set(seen) == {(torch.float32, torch.float32, torch.bfloat16)}
            model.set_attn_implementation("sdpa")
            theirs = model(**plain).last_hidden_state[0, : mask.used]
            model.set_attn_implementation("treepack")
        error, usual = ((x - wanted).square().mean().sqrt() for x in (ours, theirs))
        assert error < 2 * usual
        assert all(g.isfinite().all() for g in gradients(model, ours.square().sum()).values())


@pytest.fixture
def deterministic():
    """As users switch it on; memory that nobody wrote to is NaN then."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("name", MODELS)
def test_two_deterministic_runs_are_equal_bit_for_bit(name, deterministic):
    model = language_model(name, torch.float32)
    for rng in cases(5, "deterministic"):
        mask, inputs = random_row(rng)
        losses = [loss_of(model, mask, inputs) for _ in range(2)]
        first, second = (gradients(model, loss) for loss in losses)
        assert losses[0].isfinite()
        assert losses[0].item() == losses[1].item()
        assert distance(first, second) == 0


def test_accumulating_over_packs_of_any_shape_is_one_step_over_all():
    model = causal_model()
    for rng in cases(5, "accumulation"):
        trees = random_trees(rng, 6)
        rows = [trees[:1], trees[1:3], trees[3:]]
        packs = [tp.collate(row, total=40 * len(row) + 17) for row in rows]
        whole = tp.collate(trees)
        weight = sum(pack["loss_weights"].sum(dtype=torch.float64) for pack in packs)
        losses = [model(**pack, num_items_in_batch=weight).loss for pack in packs]
        wanted = model(**whole).loss
        assert abs(sum(losses) - wanted) < GRADIENTS
        assert distance(gradients(model, sum(losses)), gradients(model, wanted)) < GRADIENTS


def test_the_mean_of_each_pack_would_weigh_small_packs_more():
    model = causal_model()
    (rng,) = cases(1, "means")
    trees = random_trees(rng, 6)
    packs = [tp.collate(row) for row in (trees[:1], trees[1:])]
    mean = sum(model(**pack).loss for pack in packs) / 2
    wanted = gradients(model, model(**tp.collate(trees)).loss)
    assert distance(gradients(model, mean), wanted) > 1e3 * GRADIENTS
