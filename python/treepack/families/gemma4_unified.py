"""Gemma 4 without towers: patches go into the text model, where tokens of an image see ahead."""

from __future__ import annotations

from typing import ClassVar

from treepack.families.gemma4 import Gemma4
from treepack.options import Bidirectional


class Gemma4Unified(Gemma4):
    """Gemma 4 Unified of transformers (``Gemma4UnifiedForConditionalGeneration``), without audio.

    Image tokens see ahead in all layers, unless the model has ``use_bidirectional_attention=None``:
    pass ``bidirectional="none"`` to `PackedDataset` then. A row of the other kind is rejected by
    the model.
    """

    name = "gemma4_unified"
    processors: ClassVar[tuple[str, ...]] = ("Gemma4UnifiedProcessor",)
    bidirectional: ClassVar[Bidirectional] = "within_image"


FAMILY = Gemma4Unified
