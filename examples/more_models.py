"""The same demo on other architectures: families whose processor makes the root, and a hybrid."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import transformers as hf
from models import LAYERS, TEXT, Setup, build, train_tokenizer

CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% for part in message.content %}"
    "{% if part.type == 'image' %}IMAGE{% else %}{{ part.text }}{% endif %}{% endfor %}"
    "<|im_end|>\n{% endfor %}"
)
TOWER = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
}


def internvl(texts: Iterable[str]) -> Setup:
    """InternVL with tiles of 224 px, at most four an image and a view of the whole."""
    tokens = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    tokenizer = train_tokenizer(texts, list(tokens.values()), **tokens)
    processor = hf.InternVLProcessor(
        image_processor=hf.GotOcr2ImageProcessor(
            size={"height": 224, "width": 224}, max_patches=4, crop_to_patches=True
        ),
        tokenizer=tokenizer,
        video_processor=hf.InternVLVideoProcessor(),
        image_seq_length=64,
        chat_template=CHAT.replace("IMAGE", "<IMG_CONTEXT>\n"),
    )
    config = hf.InternVLConfig(
        text_config=text_config(tokenizer, "qwen2"),
        vision_config={**TOWER, "image_size": [224, 224], "patch_size": [14, 14]},
        image_seq_length=64,
        downsample_ratio=0.5,
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
    )
    budgets = {"tokens": 2048, "tiles": 12}
    return Setup(processor, lambda: build(hf.InternVLForConditionalGeneration, config), budgets)


def gemma3(texts: Iterable[str]) -> Setup:
    """Gemma 3: 64 tokens an image that see each other; every second layer has a window."""
    tokens = {
        "image_token": "<image_soft_token>",
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
    }
    tokenizer = train_tokenizer(texts, list(tokens.values()), **tokens)
    size = {"height": 224, "width": 224}
    processor = hf.Gemma3Processor(
        image_processor=hf.Gemma3ImageProcessor(size=size),
        tokenizer=tokenizer,
        image_seq_length=64,
        chat_template=CHAT.replace("IMAGE", "<start_of_image>"),
    )
    layers = {"sliding_window": 256, "layer_types": ["sliding_attention", "full_attention"]}
    config = hf.Gemma3Config(
        text_config={
            **text_config(tokenizer, "gemma3_text"),
            **layers,
            "query_pre_attn_scalar": TEXT["head_dim"],
        },
        vision_config={
            **TOWER,
            "model_type": "siglip_vision_model",
            "image_size": 224,
            "patch_size": 14,
            "vision_use_head": False,
        },
        mm_tokens_per_image=64,
        image_token_id=tokenizer.convert_tokens_to_ids("<image_soft_token>"),
        boi_token_index=tokenizer.convert_tokens_to_ids("<start_of_image>"),
        eoi_token_index=tokenizer.convert_tokens_to_ids("<end_of_image>"),
    )
    budgets = {"tokens": 2048, "crops": 16}
    return Setup(processor, lambda: build(hf.Gemma3ForConditionalGeneration, config), budgets)


def smolvlm(texts: Iterable[str]) -> Setup:
    """SmolVLM with tiles of 256 px and a view of the whole, 64 tokens each."""
    places = [f"<row_{i}_col_{j}>" for i in range(1, 7) for j in range(1, 7)]
    marks = ["<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>"]
    tokenizer = train_tokenizer(texts, [*marks, *places])
    processor = hf.SmolVLMProcessor(
        image_processor=hf.SmolVLMImageProcessor(
            size={"longest_edge": 512}, max_image_size={"longest_edge": 256}
        ),
        tokenizer=tokenizer,
        video_processor=hf.SmolVLMVideoProcessor(
            size={"longest_edge": 256}, max_image_size={"longest_edge": 256}
        ),
        image_seq_len=64,
        chat_template=CHAT.replace("IMAGE", "<image>"),
    )
    config = hf.SmolVLMConfig(
        text_config=text_config(processor.tokenizer, "llama"),
        vision_config={**TOWER, "image_size": 256, "patch_size": 16},
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    budgets = {"tokens": 2048, "tiles": 24}
    return Setup(processor, lambda: build(hf.SmolVLMForConditionalGeneration, config), budgets)


def qwen3_5(texts: Iterable[str]) -> Setup:
    """Qwen3.5, a hybrid: a recurrence in the first layer, attention in the second."""
    special = {
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
    }
    tokenizer = train_tokenizer(texts, list(special.values()))
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [6, 5, 5]}
    config = hf.Qwen3_5Config(
        text_config={
            **TEXT,
            "vocab_size": len(tokenizer),
            "layer_types": ["linear_attention", "full_attention"],
            "linear_num_key_heads": 3,
            "linear_num_value_heads": 3,
            "linear_key_head_dim": 32,
            "linear_value_head_dim": 32,
            "rope_parameters": {**rope, "mrope_interleaved": True, "partial_rotary_factor": 1.0},
        },
        vision_config={
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 2,
            "depth": LAYERS,
            "out_hidden_size": TEXT["hidden_size"],
        },
        **{name: tokenizer.convert_tokens_to_ids(token) for name, token in special.items()},
    )
    size = {"shortest_edge": 256 * 256, "longest_edge": 1024 * 1024}
    images = hf.Qwen2VLImageProcessor(patch_size=16, size=size)
    processor = hf.Qwen3VLProcessor(images, tokenizer, hf.Qwen3VLVideoProcessor())
    budgets = {"tokens": 2048, "patches": 4096}
    return Setup(processor, lambda: build(hf.Qwen3_5ForConditionalGeneration, config), budgets)


def text_config(tokenizer: Any, model_type: str) -> dict[str, Any]:
    """The text model of the demo in another architecture."""
    ids = {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": None}
    return {**TEXT, **ids, "model_type": model_type, "vocab_size": len(tokenizer) + 4}


FAMILIES = {"gemma3": gemma3, "internvl": internvl, "qwen3_5": qwen3_5, "smolvlm": smolvlm}
