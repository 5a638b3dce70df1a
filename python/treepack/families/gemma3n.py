"""Gemma 3n: images of one size, seen causally."""

from __future__ import annotations

from typing import ClassVar

from treepack.families.by_processor import ProcessorFamily


class Gemma3n(ProcessorFamily):
    """Gemma 3n of transformers (``Gemma3nForConditionalGeneration``), without audio."""

    name = "gemma3n"
    processors: ClassVar[tuple[str, ...]] = ("Gemma3nProcessor",)
    vision_cost = "images"
    media_names: ClassVar[dict[str, tuple[str, ...]]] = {"image": ("pixel_values",)}
    # Its model takes them and does nothing with them.
    not_inputs: ClassVar[tuple[str, ...]] = ("token_type_ids",)


FAMILY = Gemma3n
