"""Idefics 3: as SmolVLM, without videos."""

from __future__ import annotations

from typing import ClassVar

from treepack.families.smolvlm import SmolVLM


class Idefics3(SmolVLM):
    """Idefics 3 of transformers (``Idefics3ForConditionalGeneration``)."""

    name = "idefics3"
    processors: ClassVar[tuple[str, ...]] = ("Idefics3Processor",)


FAMILY = Idefics3
