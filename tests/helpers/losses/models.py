"""Tiny models with the heads that there are, and a batch that each takes."""

from __future__ import annotations

import copy

import torch
import transformers as hf
import treepack as tp
from helpers import tiny_models
from helpers.text_rows import distance, gradients

TEXT = {**tiny_models.TEXT, "vocab_size": 50}
GPT2 = {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 50, "bos_token_id": 0}
NO_DROPOUT = {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0}
CAPS = {"final_logit_softcapping": 2.0, "attn_logit_softcapping": None}
TEXT_MODELS = {
    "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**TEXT)),
    "llama, tied": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**TEXT, tie_word_embeddings=True)),
    "gemma2, soft cap": lambda: hf.Gemma2ForCausalLM(hf.Gemma2Config(**TEXT, **CAPS)),
    "gemma3": lambda: hf.Gemma3ForCausalLM(
        hf.Gemma3TextConfig(**TEXT, final_logit_softcapping=2.0)
    ),
    "cohere2, scale": lambda: hf.Cohere2ForCausalLM(
        hf.Cohere2Config(**TEXT, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    ),
    "granite, scale": lambda: hf.GraniteForCausalLM(hf.GraniteConfig(**TEXT, logits_scaling=3.0)),
    "gpt2": lambda: hf.GPT2LMHeadModel(hf.GPT2Config(**GPT2, eos_token_id=0, **NO_DROPOUT)),
}
MEDIA_MODELS = ("molmo2", "qwen3_vl")


def minicpm():
    """A vision-language model whose forward has no ``logits_to_keep``."""
    vision = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "patch_size": 4}
    config = hf.MiniCPMV4_6Config(
        text_config={**TEXT, "model_type": "qwen3"},
        vision_config={**vision, "num_attention_heads": 2, "image_size": 64},
        insert_layer_id=0,
    )
    return tiny_models.randomised(hf.MiniCPMV4_6ForConditionalGeneration(config))


def text_batch(scale=1.0):
    branches = [
        tp.MessageTree([n, 7, 9], labels=[n, 7, 9], weight=scale * n, end_target=2) for n in (5, 6)
    ]
    return tp.collate([tp.MessageTree([1, 2, 3], children=branches), tp.MessageTree([4] * 5)])


def media_batch(name):
    processor = getattr(tiny_models, f"{name}_processor")()
    image = tiny_models.photo(1)
    records = [
        tiny_models.record(f"<image>\n{question}", answer, image=image)
        for question, answer in (("What?", "A cat."), ("How many?", "1"))
    ]
    family = tp.families.find(processor)
    return tp.collate([family.load(tiny_models.example(*records))], family=family)


def build(name):
    """A stock model in float64, and a batch."""
    if name in MEDIA_MODELS:
        batch = media_batch(name).to("cpu", dtype=torch.float64)
        return getattr(tiny_models, f"{name}_model")(), batch
    return tiny_models.randomised(TEXT_MODELS[name]()), text_batch()


def prepared(model, **options):
    """The same model twice: with all logits, and with deferred ones."""
    options = {"unchecked": True, **options}
    return [tp.hf.prepare(copy.deepcopy(model), logits=x, **options) for x in ("full", "deferred")]


def differences(models, batch, **options):
    """Of loss and gradients, in parts of the largest."""
    found = []
    for model in models:
        loss = model(**batch, **options).loss
        found.append((loss.item(), gradients(model, loss)))
    (expected, wanted), (loss, ours) = found
    return abs(loss - expected) / abs(expected), distance(ours, wanted)
