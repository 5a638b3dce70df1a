"""Every language model of transformers is exact on a packed row of text, or rejected by name.

It takes minutes, so ``TREEPACK_CASES=10`` runs it; with ``-s`` it prints what became of each.
"""

import itertools

import numpy as np
import pytest
import torch
import transformers as hf
import treepack as tp
from helpers.cases import FACTOR, cases
from helpers.text_rows import paths, random_trees
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from treepack.errors import AttentionError

MAPPINGS = ("CAUSAL_LM", "IMAGE_TEXT_TO_TEXT", "MULTIMODAL_LM")
TWO = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers")
WIDTH = ("hidden_size", "n_embd", "d_model", "n_embed", "word_embed_proj_dim")
INNER = ("intermediate_size", "ffn_dim", "decoder_ffn_dim")
FOUR = (
    *("num_attention_heads", "n_head", "decoder_attention_heads", "num_experts"),
    *("num_local_experts", "n_routed_experts", "moe_num_experts", "rotary_dim"),
)
NONE = ("attention_dropout", "attn_pdrop", "resid_pdrop", "embd_pdrop", "dropout")
SIZES = {
    **dict.fromkeys(TWO, 2),
    **dict.fromkeys(WIDTH, 32),
    **dict.fromkeys(INNER, 48),
    **dict.fromkeys(FOUR, 4),
    **dict.fromkeys(NONE, 0.0),
    **dict.fromkeys(("head_dim", "global_head_dim", "qk_rope_head_dim"), 8),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 16),
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), 64),
    **dict.fromkeys(("n_group", "topk_group", "first_k_dense_replace"), 1),
    **dict.fromkeys(("hidden_size_per_layer_input", "num_kv_shared_layers", "pad_token_id"), 0),
    "num_key_value_heads": 2,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 128,
    "q_lora_rank": 12,
    "kv_lora_rank": 10,
    "qk_nope_head_dim": 16,
    "v_head_dim": 12,
    # Shorter than the paths, so that a window that is not told shows.
    "sliding_window": 5,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LAYERS = ("depth", "num_hidden_layers", "num_layers", "encoder_layers", "n_layer")
LARGEST = 3e8


def classes():
    """Names of the classes, and the types of their configurations."""
    found = {}
    for part in MAPPINGS:
        mapping = getattr(modeling_auto, f"MODEL_FOR_{part}_MAPPING_NAMES", {})
        for kind, names in mapping.items():
            for name in [names] if isinstance(names, str) else names:
                found.setdefault(name, kind)
    return sorted(found.items())


def knows(config, field):
    try:
        return hasattr(config, field)
    except AttributeError:  # of several kinds of layers
        return True


def small_text(text):
    """A configuration of the same type with two layers of 32 dimensions."""
    sizes = {field: size for field, size in SIZES.items() if knows(text, field)}
    if "kv_lora_rank" in sizes:
        sizes["num_key_value_heads"] = 4
    if getattr(text, "layer_types", None):
        sizes["layer_types"] = (sorted(set(text.layer_types)) * 2)[:2]
    if "vl" in text.model_type or "glm" in text.model_type or "omni" in text.model_type:
        rope = {"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 1.0}
        sizes["rope_parameters"] = {**rope, "mrope_section": [2, 1, 1]}
    return type(text)(**sizes)


def small_tower(config):
    """A configuration of a tower with one layer, which text does not run."""
    sizes = dict.fromkeys((f for f in LAYERS if isinstance(getattr(config, f, None), int)), 1)
    sizes |= {f: 32 for f in ("out_hidden_size", "text_hidden_size") if hasattr(config, f)}
    return type(config)(**sizes)


def small(config):
    text = config.get_text_config()
    if text is config:
        return small_text(config)
    parts = {name: getattr(config, name, None) for name in config.sub_configs}
    made = {name: small_text(text) for name, part in parts.items() if part is text}
    for name, part in parts.items():
        if part is not text and hasattr(part, "to_dict"):
            made[name] = small_tower(part)
    return type(config)(**made)


def build(name, kind):
    """A model with weights so large that attention is not flat; too large ones are an error."""
    made, config = getattr(hf, name), CONFIG_MAPPING[kind]()
    config = small(config if isinstance(config, made.config_class) else made.config_class())
    with torch.device("meta"):
        count = sum(weight.numel() for weight in made(config).parameters())
    if count > LARGEST:
        raise MemoryError(count)
    torch.manual_seed(0)
    model = made(config).float().eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1 and weight.is_floating_point():
                weight.normal_(0, 1.5 * weight[0].numel() ** -0.5)
    return model


def logits_of_paths(model, batch):
    ids = batch["input_ids"]
    with torch.no_grad():
        return [
            model(input_ids=ids[:, path], use_cache=False).logits[0]
            for path in paths(batch["treepack"].mask)
        ]


def difference(model, batch, alone):
    """From the logits of each path alone, in parts of the largest."""
    total = batch["input_ids"].shape[1]
    inputs = {"logits_to_keep": torch.arange(total), "targets": batch["input_ids"]}
    with torch.no_grad():
        out = model(**{**batch, **inputs, "loss_weights": torch.ones(1, total)})
    assert torch.isfinite(out.loss)
    pairs = zip(paths(batch["treepack"].mask), alone, strict=True)
    far = max((out.logits[0][path] - logits).abs().max() for path, logits in pairs)
    return (far / max(logits.abs().max() for logits in alone)).item()


def what_becomes_of(name, kind, batch):
    try:
        model = build(name, kind)
        alone = logits_of_paths(model, batch)
    except Exception as error:
        alone = error
    try:
        tp.hf.prepare(model if not isinstance(alone, Exception) else on_meta(name, kind))
    except AttentionError as error:
        return "rejected", str(error)
    except Exception as error:
        return "not built", type(error).__name__
    if isinstance(alone, Exception):
        return "accepted", f"not run: {type(alone).__name__}"
    try:
        far = difference(model, batch, alone)
    except AttentionError as error:
        # Its first forward wants rows made in another way, and says in which.
        return "other rows", str(error)
    return "exact" if far < 1e-4 else "WRONG", f"{far:.1e}"


def on_meta(name, kind):
    """A model of the default size without memory."""
    made, config = getattr(hf, name), CONFIG_MAPPING[kind]()
    config = config if isinstance(config, made.config_class) else made.config_class()
    for part in {id(part): part for part in (config, config.get_text_config())}.values():
        for field in NONE:
            if isinstance(getattr(part, field, None), float):
                setattr(part, field, 0.0)
    with torch.device("meta"):
        return made(config)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.timeout(3600)
@pytest.mark.skipif(FACTOR < 10, reason="takes minutes; TREEPACK_CASES=10 runs it")
def test_every_class_is_exact_on_text_or_rejected_by_name(capsys):
    (rng,) = itertools.islice(cases(1, "every class"), 1)
    trees = [*random_trees(rng, 4), tp.MessageTree(np.arange(3, 12))]
    batch = tp.collate(trees, total=sum(tree.n_tokens for tree in trees) + 5)
    table = {}
    for name, kind in classes():
        table[name] = what_becomes_of(name, kind, batch)
        with capsys.disabled():
            print(f"{name:46}", *table[name], flush=True)
    assert not {name for name, (verdict, _) in table.items() if verdict == "WRONG"}
    reasons = {name: reason for name, (verdict, reason) in table.items() if verdict == "rejected"}
    assert not {name for name, reason in reasons.items() if name not in reason}
    exact = {name for name, (verdict, _) in table.items() if verdict == "exact"}
    assert len(exact) > 120


@pytest.mark.filterwarnings("ignore")
@pytest.mark.timeout(3600)
@pytest.mark.skipif(FACTOR < 10, reason="takes minutes; TREEPACK_CASES=10 runs it")
def test_no_class_that_is_not_prepared_takes_a_packed_batch(capsys):
    batch = tp.collate([tp.MessageTree(np.arange(3, 12), labels=np.arange(3, 12))])
    moved = {n: v.to("cpu") if hasattr(v, "to") else v for n, v in batch.items()}
    took, tried = [], 0
    for name, kind in classes():
        try:
            model = build(name, kind)
            model(input_ids=batch["input_ids"], use_cache=False)
        except Exception:
            continue
        tried += 1
        try:
            with torch.no_grad():
                model(**moved)
            took.append(name)
        except Exception as error:
            with capsys.disabled():
                print(f"{name:46}", f"{type(error).__name__}: {error}"[:110], flush=True)
    assert tried > 120
    assert took == []
