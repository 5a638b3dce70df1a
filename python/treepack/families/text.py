"""Text models: a tokenizer is their processor."""

from __future__ import annotations

from typing import ClassVar

from treepack.families.by_processor import ProcessorFamily


class Text(ProcessorFamily):
    """Any causal language model of transformers, from its tokenizer alone.

    Example:
        >>> from types import SimpleNamespace as Stub
        >>> Text.processors
        ('PreTrainedTokenizerBase',)
    """

    name = "text"
    processors: ClassVar[tuple[str, ...]] = ("PreTrainedTokenizerBase",)
    media_names: ClassVar[dict[str, tuple[str, ...]]] = {}

    @property
    def costs(self) -> tuple[str, ...]:
        """Tokens alone."""
        return ("tokens",)


FAMILY = Text
