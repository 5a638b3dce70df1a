"""What the tiny models of all families have in common."""

from __future__ import annotations

import transformers
from helpers.tiny_models import TEXT, byte_tokenizer, randomised

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% for part in message.content %}{% if part.type == 'image' %}IMAGE"
    "{% elif part.type == 'video' %}VIDEO{% else %}{{ part.text }}{% endif %}{% endfor %}"
    "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SIGLIP = {
    "model_type": "siglip_vision_model",
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 4,
    "vision_use_head": False,
}
SQUARE = {"height": 16, "width": 16}
THETA = {"rope_type": "default", "rope_theta": 8.0}


def template(image="", video="", bos=""):
    """A chat template with these placeholders."""
    return bos + CHATML.replace("IMAGE", image).replace("VIDEO", video)


def tokenizer(specials=(), bos=None, **names):
    """One token a byte; ``names`` are attributes such as ``image_token="<image>"``."""
    settings = {"extra_special_tokens": names} if names else {}
    if bos:
        settings["bos_token"] = bos
    return byte_tokenizer(list(dict.fromkeys([*specials, *names.values()])), **settings)


def text_config(made, model_type="qwen2", without=(), **more):
    """Configuration of a small text model with the vocabulary of a tokenizer."""
    config = {
        **TEXT,
        "model_type": model_type,
        "vocab_size": len(made) + 4,
        "max_position_embeddings": 4096,
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": None,
        "tie_word_embeddings": False,
        "attention_dropout": 0.0,
        **more,
    }
    return {name: value for name, value in config.items() if name not in without}


def token_ids(made, **tokens):
    """Fields of a configuration from names and tokens."""
    return {name: made.convert_tokens_to_ids(token) for name, token in tokens.items()}


def model(name, config):
    """A model of transformers with random weights, in float64."""
    return randomised(getattr(transformers, name)(config))
