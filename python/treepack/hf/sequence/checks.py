"""Models whose rows several ranks can share; every other one is rejected by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from treepack.errors import AttentionError
from treepack.hf.checks import attention_layers, is_hybrid
from treepack.hf.sequence.group import SequenceGroup

HEADS = ("num_attention_heads", "num_heads", "n_head")
"""Fields of configurations with the number of query heads."""


def check_shared(model: Any, ranks: SequenceGroup) -> None:
    """Reject a model of which a rank cannot compute a part of the row; nothing is changed.

    Args:
        model: of transformers.
        ranks: those that are to share each row.

    Raises:
        AttentionError: recurrent layers, heads that the ranks cannot share, rotary frequencies or a
            loss that depend on the whole row.
    """
    reason = _why_not(model, ranks.size)
    if reason:
        raise AttentionError(
            f"{type(model).__name__} {reason}; prepare it without sequence_parallel"
        )


def _why_not(model: Any, size: int) -> str | None:
    text = model.config.get_text_config()
    if str(getattr(text, "model_type", "")).startswith("gemma4"):
        return (
            "takes hidden states that are shorter than the row for those of logits_to_keep "
            "(transformers 5.24), and each rank has a part of the row"
        )
    if is_hybrid(model):
        return "has recurrent layers, whose state would have to pass from rank to rank"
    kind = _rotary_by_length(text)
    if kind:
        return (
            f"has rope_type={kind!r}: its rotary frequencies depend on the longest position of "
            "the row, and each rank would take those of its own part"
        )
    if getattr(text, "output_router_logits", False):
        return (
            "has output_router_logits=True, and the loss that balances its experts is not a sum "
            "over tokens; set it to False in the text config"
        )
    heads = sorted({_heads(layer, text) for layer in attention_layers(model)} - {None})
    wrong = [n for n in heads if n % size]
    if wrong:
        return (
            f"has {wrong[0]} query heads in a layer, which {size} ranks cannot share equally; "
            f"choose a size that divides {heads}"
        )
    return None


def _rotary_by_length(text: Any) -> str | None:
    given = getattr(text, "rope_parameters", None) or {}
    each = [value for value in given.values() if isinstance(value, Mapping)] or [given]
    kinds = (rope.get("rope_type") or "" for rope in each)
    return next((kind for kind in kinds if "dynamic" in kind or kind == "longrope"), None)


def _heads(layer: Any, text: Any) -> Any:
    for holder in (layer, getattr(layer, "config", text)):
        for field in HEADS:
            value = getattr(holder, field, None)
            if isinstance(value, int):
                return value
    return None
