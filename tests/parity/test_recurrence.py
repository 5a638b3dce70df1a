"""Hybrid models: recurrent layers follow the same tree, through tree-recurrence and our export."""

from __future__ import annotations

import pytest
import torch
import treepack as tp
from helpers.text_rows import paths
from helpers.unrounded import unrounded
from treepack.attention.formats import trl_tree_kwargs
from treepack.hf.attention import NAME, register

tree_recurrence = pytest.importorskip("tree_recurrence")

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
LENGTHS, PARENTS = [7, 4, 3, 5, 6, 4], [-1, 0, 1, 0, -1, 4]


def lfm2():
    from transformers import Lfm2Config, Lfm2ForCausalLM

    kinds = ["conv", "full_attention", "conv", "full_attention"]
    return Lfm2ForCausalLM(Lfm2Config(**SIZES, layer_types=kinds))


def qwen3_5():
    from transformers import Qwen3_5ForCausalLM, Qwen3_5TextConfig

    heads = {"linear_num_key_heads": 2, "linear_num_value_heads": 2}
    sizes = {"linear_key_head_dim": 8, "linear_value_head_dim": 8}
    kinds = ["linear_attention", "full_attention"] * 2
    return Qwen3_5ForCausalLM(Qwen3_5TextConfig(**SIZES, **heads, **sizes, layer_types=kinds))


@pytest.fixture
def model(request):
    torch.manual_seed(0)
    made = request.param().double().eval()
    with torch.no_grad():
        for weight in made.parameters():
            if weight.ndim > 1:
                weight.normal_(0, weight[0].numel() ** -0.5)
    with unrounded():
        yield made


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model", [lfm2, qwen3_5], indirect=True)
def test_each_path_is_as_if_alone(model):
    mask = tp.TreeMask.from_nodes(LENGTHS, PARENTS, total=34)
    ids = torch.randint(0, 64, (1, mask.total))
    with torch.no_grad():
        alone = [model(ids[:, path], use_cache=False).logits[0] for path in paths(mask)]
    register()
    model.set_attn_implementation(NAME)
    inputs = {"position_ids": torch.from_numpy(mask.positions()), "use_cache": False}
    with torch.no_grad():
        mixed = model(ids, **inputs, treepack=mask).logits[0]
    assert tree_recurrence.install(model).mode == "tree"
    kwargs = {name: torch.from_numpy(value) for name, value in trl_tree_kwargs(mask).items()}
    longest = kwargs.pop("tree_max_seqlens").tolist()
    kwargs |= {"tree_max_seqlen_q": longest[0], "tree_max_seqlen_k": longest[1]}
    with torch.no_grad():
        row = model(ids, **inputs, treepack=mask, **kwargs).logits[0]
    for path, logits in zip(paths(mask), alone, strict=True):
        torch.testing.assert_close(row[path], logits, rtol=0, atol=1e-12)
    # Without the kwargs the recurrent layers run on from one branch into the next.
    gap = max((mixed[p] - x).abs().max() for p, x in zip(paths(mask), alone, strict=True))
    assert gap > 0.1
    tree_recurrence.uninstall(model)
