"""Models with sliding windows: each path of a packed row is as if it ran alone."""

from __future__ import annotations

import pytest
import torch
import transformers as hf
import treepack as tp
from helpers.cases import cases
from helpers.text_rows import compiled, paths
from helpers.unrounded import unrounded

SIZES = {
    "vocab_size": 60,
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 12,
}
WINDOW = 5
TREE = [12, 7, 3, 9, 1, 8, 6], [-1, 0, 1, 0, 0, -1, 5]


def mistral():
    return hf.MistralForCausalLM(hf.MistralConfig(**SIZES, sliding_window=WINDOW))


def gemma3(layers=3):
    kinds = ["sliding_attention", "full_attention", "sliding_attention"][:layers]
    sizes = {**SIZES, "num_hidden_layers": layers}
    config = hf.Gemma3TextConfig(**sizes, sliding_window=WINDOW, layer_types=kinds)
    return hf.Gemma3ForCausalLM(config)


def gemma2():
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    config = hf.Gemma2Config(
        **SIZES, sliding_window=WINDOW, layer_types=kinds, attn_logit_softcapping=1.5
    )
    return hf.Gemma2ForCausalLM(config)


def randomised(model):
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(0, weight[0].numel() ** -0.5)
    return model.double().train()


@pytest.fixture
def model(request):
    made = randomised(request.param())
    with unrounded():
        yield made


def run(model, ids, **inputs):
    model.zero_grad()
    return model(ids, use_cache=False, **inputs).logits[0]


@pytest.mark.parametrize("model", [mistral, gemma3], indirect=True)
def test_each_path_is_as_if_alone(model):
    mask = tp.TreeMask.from_nodes(*TREE, total=50)
    ids = torch.randint(0, 60, (1, mask.total))
    ways = paths(mask)
    model.set_attn_implementation("sdpa")
    alone = [run(model, ids[:, path]) for path in ways]
    weights = [torch.randn_like(logits) for logits in alone]
    sum((w * logits).sum() for w, logits in zip(weights, alone, strict=True)).backward()
    expected = {name: weight.grad.clone() for name, weight in model.named_parameters()}

    tp.hf.prepare(model)
    positions = torch.from_numpy(mask.positions())
    row = run(model, ids, position_ids=positions, treepack=mask)
    for path, logits in zip(ways, alone, strict=True):
        torch.testing.assert_close(row[path], logits, rtol=0, atol=1e-12)
    sum((w * row[path]).sum() for w, path in zip(weights, ways, strict=True)).backward()
    for name, weight in model.named_parameters():
        scale = expected[name].abs().max()
        torch.testing.assert_close(weight.grad, expected[name], rtol=0, atol=1e-12 * float(scale))
    # The windows matter here: without them the row says something else.
    for layer in model.modules():
        if getattr(layer, "sliding_window", None):
            layer.sliding_window = None
    model.config.sliding_window = None
    unlimited = run(model, ids, position_ids=positions, treepack=mask)
    assert (unlimited - row).abs().max() > 0.05


@pytest.mark.parametrize("model", [gemma3], indirect=True)
def test_gemma3_sees_ahead_within_an_image_and_only_there(model):
    """Against the masks that transformers builds for one path alone, images included."""
    from transformers.models.gemma3.modeling_gemma3 import create_masks_for_vision_model

    model.set_attn_implementation("sdpa")
    runs = [[2, 8, 0], [9, 12, 1]]
    mask = tp.TreeMask.from_nodes([14, 5, 6], [-1, 0, 0], runs, "within_image")
    ids = torch.randint(0, 60, (1, mask.total))
    alone = []
    for path in paths(mask):
        blocks = torch.full((1, len(path)), -1)
        for start, end, image in runs:
            blocks[:, start:end] = image
        embeds, places = model.get_input_embeddings()(ids[:, path]), torch.arange(len(path))[None]
        masks = create_masks_for_vision_model(model.config, embeds, None, None, places, blocks)
        alone.append(run(model, ids[:, path], attention_mask=masks))
    tp.hf.prepare(model)
    row = run(model, ids, position_ids=torch.from_numpy(mask.positions()), treepack=mask)
    for path, logits in zip(paths(mask), alone, strict=True):
        torch.testing.assert_close(row[path], logits, rtol=0, atol=1e-12)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("model", [mistral, gemma2, gemma3], indirect=True)
def test_each_path_is_as_if_alone_in_flex_attention(model):
    """Forward alone: it has no backward on a CPU. Gemma 2 caps its scores, which is seen here."""
    mask = tp.TreeMask.from_nodes(*TREE, total=50)
    ids = torch.randint(0, 60, (1, mask.total))
    model.set_attn_implementation("eager")
    with torch.no_grad():
        alone = [run(model, ids[:, path]) for path in paths(mask)]
        tp.hf.prepare(model, backend="flex")
        row = run(model, ids, position_ids=torch.from_numpy(mask.positions()), treepack=mask)
    for path, logits in zip(paths(mask), alone, strict=True):
        torch.testing.assert_close(row[path], logits, rtol=0, atol=1e-12)


def test_one_graph_fits_windows_that_were_planned_before():
    torch._dynamo.reset()
    model = tp.hf.prepare(randomised(gemma3(layers=2)))
    (graph, counter), graphs = compiled(model), []
    for rng in cases(4, "compiled windows"):
        lengths = rng.integers(8, 14, 3)
        children = [tp.MessageTree(rng.integers(0, 60, n)) for n in lengths[1:]]
        tree = tp.MessageTree(rng.integers(0, 60, lengths[0]), children=children)
        batch = tp.collate([tree], total=50, sliding_windows=tp.hf.sliding_windows(model))
        inputs = {name: batch[name] for name in ("input_ids", "position_ids", "treepack")}
        torch.testing.assert_close(graph(**inputs).logits, model(**inputs).logits)
        graphs.append(counter.frame_count)
    # The first row may take two: a number in Gemma's embedding makes the compiler start again.
    assert len(set(graphs)) == 1
    torch._dynamo.reset()
