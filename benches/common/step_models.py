"""Models of a training step: Molmo2-4B, and smaller ones in the same proportions.

The work of a training step follows from four numbers. Of Molmo2-4B, forward, one
multiplication and addition being two:

- a token in all linear layers of the language model but the head: 2 * 36 * 101 M = 7.3 G;
- a pair of tokens in its attention: 36 * 4 * 32 * 128 = 0.59 M, so that 12,320 pairs are a token;
- a crop of 729 patches in the vision tower, 25 layers of hidden size 1,152, and in the adapter:
  633 G, so that a crop is 87 tokens; a frame is given to the language model as 83;
- what the head takes, for targets alone: a hundredth.

``slice`` has the same two ratios at full length with a 576th of the work, as much as a
sixteenth of one of the 36 layers. ``small`` is for rows of 2,048 tokens, an eighth of the
length, where all three are an eighth: 1,540 pairs are a token, and a crop, of 100 patches, is 11.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import treepack as tp
from torch import nn

from . import sft_rows

FULL, SIDE = 16_384, 27
"""Tokens of a row of full length, and patches on each side of its crops."""


class Tower(NamedTuple):
    """Sizes of a vision tower, and of the adapter after it."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    head_size: int
    adapter: int


class Shape(NamedTuple):
    """Sizes of a language model, the tokens of its rows, and its vision tower."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    key_heads: int
    head_size: int
    vocabulary: int
    total: int
    tower: Tower

    @property
    def side(self) -> int:
        """Patches on each side of a crop, fewer where rows are shorter."""
        return round(SIDE * min(1.0, self.total / FULL) ** 0.5)

    @property
    def images(self) -> sft_rows.Images:
        """What stands for images, beyond the vocabulary."""
        n = self.vocabulary
        return sft_rows.Images(n, n + 1, n + 2, self.side**2)

    @property
    def token_flops(self) -> int:
        """Forward, of a token in the linear layers without the head."""
        attention = 2 * self.hidden * self.head_size * (self.heads + self.key_heads)
        return 2 * self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def pair_flops(self) -> int:
        """Forward, of a query and a key in the attention."""
        return 4 * self.layers * self.heads * self.head_size

    @property
    def crop_flops(self) -> int:
        """Forward, of a crop in the tower and the adapter."""
        tower = self.tower
        n, width = self.side**2, tower.heads * tower.head_size
        linear = 4 * tower.hidden * width + 2 * tower.hidden * tower.intermediate
        layers = tower.layers * n * (2 * linear + 4 * n * width)
        pooling = 2 * 2 * 2 * tower.hidden * width * n
        projector = 2 * tower.adapter * (2 * tower.hidden + self.hidden) * n // 9
        return 2 * sft_rows.PIXELS * tower.hidden * n + layers + pooling + projector


SHAPES = {
    "real": Shape(
        36, 2_560, 9_728, 32, 8, 128, 151_936, FULL, Tower(25, 1_152, 4_304, 16, 72, 9_728)
    ),
    "slice": Shape(2, 1_280, 688, 2, 1, 64, 1_024, FULL, Tower(2, 192, 380, 2, 32, 64)),
    "small": Shape(4, 320, 1_216, 8, 2, 64, 8_192, 2_048, Tower(2, 192, 512, 2, 32, 64)),
}


def build_text(shape: Shape, device: torch.device) -> nn.Module:
    """Qwen3, of which Molmo2-4B's language model is one, with random weights."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(**_text(shape), vocab_size=shape.vocabulary)
    return _prepared(Qwen3ForCausalLM, config, device)


def build_vision(shape: Shape, device: torch.device) -> nn.Module:
    """Molmo2 with its vision tower, with random weights."""
    from transformers import Molmo2Config, Molmo2ForConditionalGeneration

    tower, images = shape.tower, shape.images
    sizes = {
        "hidden_size": tower.hidden,
        "num_attention_heads": tower.heads,
        "num_key_value_heads": tower.heads,
        "head_dim": tower.head_size,
    }
    config = Molmo2Config(
        text_config={
            **_text(shape),
            "vocab_size": shape.vocabulary,
            "additional_vocab_size": 128,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        },
        vision_config={
            **sizes,
            "intermediate_size": tower.intermediate,
            "num_hidden_layers": tower.layers,
            "image_size": [14 * shape.side] * 2,
        },
        adapter_config={
            **sizes,
            "intermediate_size": tower.adapter,
            "vision_feature_layer": [tower.layers - 1, 3 * (tower.layers - 1) // 4],
            "text_hidden_size": shape.hidden,
        },
        image_patch_id=images.patch,
        image_start_token_id=images.start,
        image_end_token_id=images.end,
    )
    return _prepared(Molmo2ForConditionalGeneration, config, device)


def _text(shape: Shape) -> dict[str, int]:
    return {
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.key_heads,
        "head_dim": shape.head_size,
        "max_position_embeddings": shape.total,
    }


def _prepared(architecture: type[nn.Module], config: object, device: torch.device) -> nn.Module:
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    with torch.device(device):
        model = architecture(config).to(dtype).train()
    # With the small weights that models begin with, losses are equal whatever the images show.
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    if device.type == "cuda":
        enable = getattr(model, "activation_checkpointing_enable", None)
        (enable or model.gradient_checkpointing_enable)({"use_reentrant": False})
    return tp.hf.prepare(model)
