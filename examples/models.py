"""Real architectures, small and with random weights, and a tokenizer of the data's own words."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

VOCABULARY = 1024
CHAT = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
LAYERS = 2
TEXT = {
    "hidden_size": 96,
    "intermediate_size": 288,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "head_dim": 32,
    # About 1 / sqrt(hidden_size): weights this large make attention sharp enough that a wrong mask
    # could not hide behind averages.
    "initializer_range": 0.1,
}


class Setup(NamedTuple):
    """What the demo needs of a family: the same weights come out of every ``make_model()``."""

    processor: Any
    make_model: Callable[[], torch.nn.Module]
    budgets: dict[str, int]


def molmo2(texts: Iterable[str]) -> Setup:
    """Molmo2 with its image processor as it is: 378 px crops of 729 patches."""
    from transformers import (
        Molmo2Config,
        Molmo2ForConditionalGeneration,
        Molmo2ImageProcessor,
        Molmo2Processor,
        Molmo2VideoProcessor,
    )

    special = {
        "image_patch_id": "<im_patch>",
        "image_start_token_id": "<im_start>",
        "image_end_token_id": "<im_end>",
        "low_res_image_start_token_id": "<low_res_im_start>",
        "frame_start_token_id": "<frame_start>",
        "frame_end_token_id": "<frame_end>",
    }
    others = ["<im_col>", "<im_low>", "<|image|>", "<|video|>"]
    tokenizer = train_tokenizer(texts, [*special.values(), *others])
    tower = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 32}
    config = Molmo2Config(
        # Image tokens lie beyond the output layer: nothing is trained to say them.
        text_config={**TEXT, "vocab_size": len(tokenizer) - 10, "additional_vocab_size": 10},
        vision_config={**tower, "intermediate_size": 128, "num_hidden_layers": LAYERS},
        adapter_config={
            **tower,
            "intermediate_size": 128,
            "vision_feature_layer": [1, 0],
            "text_hidden_size": TEXT["hidden_size"],
        },
        **{name: tokenizer.convert_tokens_to_ids(token) for name, token in special.items()},
    )
    processor = Molmo2Processor(Molmo2ImageProcessor(), Molmo2VideoProcessor(), tokenizer)
    budgets = {"tokens": 2048, "crops": 10}
    return Setup(processor, lambda: build(Molmo2ForConditionalGeneration, config), budgets)


def qwen3_vl(texts: Iterable[str]) -> Setup:
    """Qwen3-VL at native resolution, at most a megapixel."""
    from transformers import (
        Qwen2VLImageProcessor,
        Qwen3VLConfig,
        Qwen3VLForConditionalGeneration,
        Qwen3VLProcessor,
        Qwen3VLVideoProcessor,
    )

    special = {
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
    }
    tokenizer = train_tokenizer(texts, list(special.values()))
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [6, 5, 5]}
    config = Qwen3VLConfig(
        text_config={
            **TEXT,
            "vocab_size": len(tokenizer),
            "rope_parameters": {**rope, "mrope_interleaved": True},
        },
        vision_config={
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 2,
            "depth": LAYERS,
            "out_hidden_size": TEXT["hidden_size"],
            "deepstack_visual_indexes": [0],
        },
        **{name: tokenizer.convert_tokens_to_ids(token) for name, token in special.items()},
    )
    size = {"shortest_edge": 256 * 256, "longest_edge": 1024 * 1024}
    images = Qwen2VLImageProcessor(patch_size=16, size=size)
    processor = Qwen3VLProcessor(images, tokenizer, Qwen3VLVideoProcessor())
    budgets = {"tokens": 2048, "patches": 4096}
    return Setup(processor, lambda: build(Qwen3VLForConditionalGeneration, config), budgets)


FAMILIES = {"molmo2": molmo2, "qwen3_vl": qwen3_vl}


def train_tokenizer(
    texts: Iterable[str], special: list[str], **names: str
) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE on these texts; the special tokens get the highest ids.

    Processors find some of them under ``names``, as attributes of the tokenizer.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=CHAT,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens(special)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_end|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        **({"extra_special_tokens": names} if names else {}),
    )


def build(architecture: Any, config: Any) -> torch.nn.Module:
    """A model with random weights, the same ones each time."""
    torch.manual_seed(0)
    # A model keeps its attention implementation in its configuration: each gets its own.
    return architecture(copy.deepcopy(config)).float().train()
