"""Models that are built otherwise: every path of a row gets what it gets alone."""

import copy
import functools

import pytest
import torch
import transformers as hf
import treepack as tp
from helpers import tiny_models
from helpers.cases import cases
from helpers.text_rows import distance, gradients, paths, random_trees
from helpers.unrounded import unrounded
from treepack.hf.model import is_packed

pytestmark = pytest.mark.filterwarnings("ignore")

LOGITS = GRADIENTS = 1e-12
TEXT = {**tiny_models.TEXT, "vocab_size": 50, "pad_token_id": 0}
PLAIN = {name: value for name, value in TEXT.items() if name != "head_dim"}
LATENT = {
    **PLAIN,
    "num_key_value_heads": 2,
    "q_lora_rank": 12,
    "kv_lora_rank": 10,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 12,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "moe_intermediate_size": 8,
}
WIDE = {**TEXT, "v_head_dim": 12, "layer_types": ["full_attention"] * 2}
GPT2 = {
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 2,
    "vocab_size": 50,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
GPT2 |= dict.fromkeys(("attn_pdrop", "resid_pdrop", "embd_pdrop"), 0.0)
MODELS = {
    "deepseek_v3": lambda: hf.DeepseekV3ForCausalLM(hf.DeepseekV3Config(**LATENT)),
    "values wider than keys": lambda: hf.MiMoV2FlashForCausalLM(
        hf.MiMoV2FlashConfig(
            **WIDE,
            n_routed_experts=4,
            num_experts_per_tok=2,
            n_group=1,
            topk_group=1,
            moe_intermediate_size=8,
        )
    ),
    "gpt2": lambda: hf.GPT2LMHeadModel(hf.GPT2Config(**GPT2)),
    "diffllama": lambda: hf.DiffLlamaForCausalLM(
        hf.DiffLlamaConfig(**{**TEXT, "num_key_value_heads": 2})
    ),
    "mistral4": lambda: hf.Mistral4ForCausalLM(hf.Mistral4Config(**LATENT)),
}


@functools.cache
def made(name):
    torch.manual_seed(0)
    model = tiny_models.randomised(MODELS[name]())
    # The other implementations of experts have no float64.
    model.set_experts_implementation("eager")
    return model


@pytest.fixture(autouse=True)
def _unrounded():
    for name in MODELS:
        made(name)
    with unrounded():
        yield


def every_position(batch):
    """The batch with a target at every position."""
    total = batch["input_ids"].shape[1]
    return {
        **batch,
        "logits_to_keep": torch.arange(total),
        "targets": batch["input_ids"],
        "loss_weights": torch.ones(1, total),
    }


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("name", MODELS)
def test_every_path_is_as_if_alone(name, backend):
    stock = made(name)
    ours = tp.hf.prepare(copy.deepcopy(stock), backend=backend)
    for rng in cases(3, "other models"):
        trees = random_trees(rng, 3)
        batch = tp.collate(trees, total=sum(tree.n_tokens for tree in trees) + 5)
        mask = batch["treepack"].mask
        weights = torch.from_numpy(rng.standard_normal((mask.total, 50)))
        found = ours(**every_position(batch)).logits[0]
        seen, loss = torch.zeros(mask.total, dtype=torch.bool), 0.0
        for path in paths(mask):
            out = stock(batch["input_ids"][:, path], use_cache=False).logits[0]
            assert (found[path] - out).abs().max() < LOGITS
            loss = loss + (out * weights[path])[~seen[path]].sum()
            seen[path] = True
        mine = gradients(ours, (found * weights)[: mask.used].sum())
        assert distance(mine, gradients(stock, loss)) < GRADIENTS


def test_flex_pads_narrow_values_too():
    stock = made("deepseek_v3")
    ours = tp.hf.prepare(copy.deepcopy(stock), backend="flex")
    (batch,) = (tp.collate(random_trees(rng, 3)) for rng in cases(1, "flex"))
    with torch.no_grad():
        found = ours(**every_position(batch)).logits[0]
        for path in paths(batch["treepack"].mask):
            out = stock(batch["input_ids"][:, path], use_cache=False).logits[0]
            assert (found[path] - out).abs().max() < LOGITS


def minicpm():
    """A vision-language model whose forward has no ``logits_to_keep``."""
    vision = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "patch_size": 4}
    config = hf.MiniCPMV4_6Config(
        text_config={**TEXT, "model_type": "qwen3"},
        vision_config={**vision, "num_attention_heads": 2, "image_size": 64},
        insert_layer_id=0,
    )
    return tiny_models.randomised(hf.MiniCPMV4_6ForConditionalGeneration(config))


def loss_alone(stock, tree):
    """Sums of weighted losses and of weights of a tree of one level, each path run alone."""
    total = weight = 0.0
    for node in tree.children or [tree]:
        before = tree.tokens.tolist() if node is not tree else []
        ids = torch.tensor([[*before, *node.tokens.tolist()]])
        scores = stock(ids, use_cache=False).logits[0].log_softmax(-1)
        for place in range(max(len(before), 1), ids.shape[1]):
            total = total - node.weight * scores[place - 1, ids[0, place]]
            weight += node.weight
    return total, weight


def test_a_model_that_makes_all_logits_picks_those_of_the_targets():
    stock = minicpm()
    ours = tp.hf.prepare(copy.deepcopy(stock))
    for rng in cases(3, "all logits"):
        trees = random_trees(rng, 3)
        for tree in trees:
            if tree.children:
                tree.labels = None
        out = ours(**tp.collate(trees, total=sum(tree.n_tokens for tree in trees) + 5))
        sums = [loss_alone(stock, tree) for tree in trees]
        loss = sum(total for total, _ in sums) / sum(weight for _, weight in sums)
        assert abs(out.loss - loss) < 1e-6
        assert distance(gradients(ours, out.loss), gradients(stock, loss)) < 1e-6
    assert is_packed(ours)
