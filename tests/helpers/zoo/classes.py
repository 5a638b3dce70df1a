"""Every language model of transformers, tiny and with random weights: what becomes of a packed row.

``python -m helpers.zoo.classes`` writes the table of the classes that are exact, which
`treepack.hf.prepare` goes by; it takes minutes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import warnings

import numpy as np
import torch
import transformers as hf
import treepack as tp
from helpers import zoo
from helpers.cases import cases
from helpers.text_rows import paths, random_trees
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from treepack.errors import AttentionError
from treepack.hf import compared
from treepack.hf.checks import text_model

MAPPINGS = ("CAUSAL_LM", "IMAGE_TEXT_TO_TEXT", "MULTIMODAL_LM")
TWO = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers")
WIDTH = ("hidden_size", "n_embd", "d_model", "n_embed", "word_embed_proj_dim")
INNER = ("intermediate_size", "ffn_dim", "decoder_ffn_dim")
FOUR = (
    *("num_attention_heads", "n_head", "decoder_attention_heads", "num_experts"),
    *("num_local_experts", "n_routed_experts", "moe_num_experts", "rotary_dim"),
)
NONE = (
    *("attention_dropout", "attn_pdrop", "resid_pdrop", "embd_pdrop", "dropout"),
    *("attention_probs_dropout_prob", "hidden_dropout_prob"),
)
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
    "is_decoder": True,
}
LAYERS = ("depth", "num_hidden_layers", "num_layers", "encoder_layers", "n_layer")
LARGEST = 1e9

ROPE = {"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 1.0}
THREE_AXES = {**ROPE, "mrope_section": [2, 1, 1]}
GEMMA = {"global_head_dim": 8, "hidden_size_per_layer_input": 0}
PER_LAYER = {**GEMMA, "hidden_size_per_layer_input": 4}
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8}
UNSET = object()
OTHERWISE = {
    "apertus1p5_text": {"vocab_size": 266752},
    "bamba": {**MAMBA, "layer_types": UNSET, "attn_layer_indices": [1]},
    "chameleon": {"vocabulary_map": {"<image>": 60}},
    "cohere_compass_text": {"rope_parameters": {"full_attention": ROPE, "sliding_attention": ROPE}},
    "cosmos3_edge_text": {"rope_parameters": THREE_AXES},
    "dots1": {"n_shared_experts": 1},
    "emu3": {"vocabulary_map": {"<image>": 60, "<|extra_200|>": 61}},
    "ernie4_5_vl_moe_text": {
        "moe_intermediate_size": [16, 16],
        "rope_parameters": {**ROPE, "mrope_section": [1, 1, 2]},
    },
    "dbrx": {"attn_config": {"kv_n_heads": 2, "rope_theta": 100.0, "clip_qkv": 8.0}},
    "deepseek_ocr2_vision": {"encoder_config": {"num_hidden_layers": 1, "intermediate_size": 32}},
    "deepseek_ocr2_text": {"mlp_layer_types": ["dense", "sparse"]},
    "diffusion_gemma_text": {**GEMMA, "num_experts": 4, "top_k_experts": 2},
    "fun_asr_nano": {"adaptor_config": {"hidden_size": 32, "intermediate_size": 8}},
    "granite4_vision": {"deepstack_layer_map": [[-1, 0]], "downsample_rate": "4/8"},
    "mimo_v2_flash": {"layer_types": ["full_attention"] * 2},
    "muse_spark_audio": {"num_hidden_layers": UNSET},
    "reformer": {"axial_pos_embds_dim": [16, 16]},
    "gemma3n_text": {**PER_LAYER, "activation_sparsity_pattern": [0.0, 0.0], "laurel_rank": 4},
    "gemma4_text": PER_LAYER,
    "gemma4_unified_text": GEMMA,
    "granitemoehybrid": {**MAMBA, "mamba_n_groups": 1, "layer_types": ["mamba", "attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "phimoe": {"sliding_window": None},
    "qwen4_exp_text": {
        "ple_layer_ids": [2],
        "ngram_vocab_size_base": 64,
        "hc_lowrank": 4,
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 4,
        "indexer_compress_ratio": 2,
    },
}
"""What configurations of a type need beside or in place of these sizes."""

DRAFT = {"hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 0}
GIVEN = {
    "gemma4_assistant": {"text_config": {**DRAFT, "num_kv_shared_layers": 0}},
    "qwen3_omni_moe": {"enable_audio_output": False},
}
"""What configurations of a type need to be made at all."""


def classes():
    """Names of the classes, and the types of their configurations."""
    found = {}
    for part in MAPPINGS:
        mapping = getattr(modeling_auto, f"MODEL_FOR_{part}_MAPPING_NAMES", {})
        for kind, names in mapping.items():
            for name in [names] if isinstance(names, str) else names:
                found.setdefault(name, kind)
    return sorted(found.items())


def default(kind):
    """A configuration of a type, as its model has it where nothing is said."""
    return CONFIG_MAPPING[kind](**GIVEN.get(kind, {}))


def knows(config, field):
    try:
        return hasattr(config, field)
    except Exception:  # of several kinds of layers
        return True


def small_text(text):
    """A configuration of the same type with two layers of 32 dimensions."""
    sizes = {field: size for field, size in SIZES.items() if knows(text, field)}
    if "kv_lora_rank" in sizes:
        sizes["num_key_value_heads"] = 4
    if getattr(text, "layer_types", None):
        sizes["layer_types"] = (sorted(set(text.layer_types)) * 2)[:2]
    if "vl" in text.model_type or "glm" in text.model_type or "omni" in text.model_type:
        sizes["rope_parameters"] = THREE_AXES
    return made(text, sizes)


def small_tower(config):
    """A configuration of a tower with one layer, which text does not run."""
    sizes = dict.fromkeys((f for f in LAYERS if isinstance(getattr(config, f, None), int)), 1)
    sizes |= {f: 32 for f in ("out_hidden_size", "text_hidden_size") if hasattr(config, f)}
    return made(config, sizes)


def made(config, sizes):
    """A configuration of the same type, with these sizes and what else its type needs."""
    sizes = {**sizes, **OTHERWISE.get(config.model_type, {})}
    return type(config)(**{name: value for name, value in sizes.items() if value is not UNSET})


def small(config):
    text = config.get_text_config()
    if text is config:
        return small_text(config)
    parts = {name: getattr(config, name, None) for name in config.sub_configs}
    sizes = {name: small_text(text) for name, part in parts.items() if part is text}
    for name, part in parts.items():
        if part is not text and hasattr(part, "to_dict"):
            sizes[name] = small_tower(part)
    return made(config, sizes)


def build(name, kind):
    """A model with weights so large that attention is not flat; too large ones are an error."""
    model_class, config = getattr(hf, name), default(kind)
    is_whole = isinstance(config, model_class.config_class)
    config = small(config if is_whole else model_class.config_class())
    with torch.device("meta"):
        count = sum(weight.numel() for weight in model_class(config).parameters())
    if count > LARGEST:
        raise MemoryError(count)
    torch.manual_seed(0)
    model = model_class(config).float().eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1 and weight.numel() and weight.is_floating_point():
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


def a_row():
    """A packed row of texts, with padding."""
    (rng,) = itertools.islice(cases(1, "every class"), 1)
    trees = [*random_trees(rng, 4), tp.MessageTree(np.arange(3, 12))]
    return tp.collate(trees, total=sum(tree.n_tokens for tree in trees) + 5)


def prepare(model):
    """Prepare a model of any class, with the backend that it needs."""
    try:
        tp.hf.prepare(model, unchecked=True)
    except AttentionError as error:
        if 'backend="flex"' not in str(error):
            raise
        tp.hf.prepare(model, "flex", unchecked=True)


def what_becomes_of(name, kind, batch):
    """A verdict, what it goes by, and the class of the text model."""
    try:
        model = build(name, kind)
        alone = logits_of_paths(model, batch)
    except Exception as error:
        alone = error
    try:
        prepare(model if not isinstance(alone, Exception) else on_meta(name, kind))
    except AttentionError as error:
        return "rejected", str(error), ""
    except Exception as error:
        return "not built", type(error).__name__, ""
    if isinstance(alone, Exception):
        return "not compared", f"not run: {type(alone).__name__}", ""
    try:
        far = difference(model, batch, alone)
    except AttentionError as error:
        # Its first forward wants rows made in another way, and says in which.
        return "other rows", str(error), ""
    return "exact" if far < 1e-4 else "WRONG", f"{far:.1e}", type(text_model(model)).__name__


def on_meta(name, kind):
    """A model of the default size without memory."""
    made, config = getattr(hf, name), default(kind)
    config = config if isinstance(config, made.config_class) else made.config_class()
    for part in {id(part): part for part in (config, config.get_text_config())}.values():
        for field in NONE:
            if isinstance(getattr(part, field, None), float):
                setattr(part, field, 0.0)
    with torch.device("meta"):
        return made(config)


def verdicts():
    """What becomes of each class, by its name."""
    batch = a_row()
    for name, kind in classes():
        verdict = what_becomes_of(name, kind, batch)
        print(f"{name:46}", *verdict, flush=True)
        yield name, verdict


def families():
    """The classes of the models that each family is shown on, with those of their text models."""
    built = [zoo.build(name)[1] for name in zoo.BUILDERS]
    return {type(model).__name__: type(text_model(model)).__name__ for model in built}


def main():
    argparse.ArgumentParser(description=__doc__).parse_args()
    warnings.simplefilter("ignore")
    found = dict(verdicts())
    exact = {name: text for name, (verdict, _, text) in found.items() if verdict == "exact"}
    exact |= families()
    old = json.loads(compared.TABLE.read_text()) if compared.TABLE.exists() else {}
    # What this version lacks, or could not run, stays with the version that it was shown on.
    kept = {
        version: {name: text for name, text in names.items() if not hasattr(hf, name)}
        for version, names in old.items()
        if version != hf.__version__
    }
    made = {version: names for version, names in kept.items() if names}
    made[hf.__version__] = dict(sorted(exact.items()))
    compared.TABLE.write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()
