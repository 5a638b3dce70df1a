"""A tiny model with random weights and the real processor of each family, built offline.

``build("internvl")`` gives ``(processor, model)``, the model in float64. Chat templates write media
where they stand, as the real ones do.
"""

from __future__ import annotations

import functools

from helpers.zoo import others, patches, tiles, timm_towers

BUILDERS = {
    **patches.BUILDERS,
    **tiles.BUILDERS,
    **others.BUILDERS,
    **timm_towers.BUILDERS,
}

WITH_VIDEOS = {
    "ernie4_5_vl",
    "gemma4",
    "gemma4_unified",
    "gemma4_vision",
    "glm46v",
    "glm4v",
    "internvl",
    "kimi_k25",
    "llava_onevision",
    "molmo2",
    "perception_lm",
    "qwen2_5_vl",
    "qwen2_vl",
    "qwen3_5",
    "qwen3_vl",
    "qwen3_vl_moe",
    "smolvlm",
}


@functools.cache
def build(name):
    """Processor and model of a family; the same objects each time."""
    return BUILDERS[name]()
