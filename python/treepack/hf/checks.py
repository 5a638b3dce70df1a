"""Which models a packed row can be exact in; every other one is rejected by name."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from treepack.errors import AttentionError

EXACT = {"full_attention", "attention", "full", "sliding_attention", "mlp", "moe"}
"""Layer types in which a token sees all tokens before it, those in a window, or none."""

RECURRENT = {"linear_attention", "mamba", "conv", "hybrid"}
"""Layer types that tree-recurrence may know; ``hybrid`` has attention beside the recurrence."""

DROPOUTS = ("attention_dropout", "attn_pdrop", "attention_probs_dropout_prob")
"""Fields of configurations that set the dropout of attention weights."""


def check_model(model: Any, backend: str | None) -> None:
    """Reject what a packed row cannot compute exactly; nothing is changed.

    Raises:
        AttentionError: as `treepack.hf.prepare` says.
    """
    name = type(model).__name__
    if not hasattr(model, "set_attn_implementation"):
        raise AttentionError(f"{name} is not a model of transformers; pass the model itself")
    text = model.config.get_text_config()
    if getattr(model.config, "is_encoder_decoder", False):
        raise AttentionError(f"{name} is an encoder-decoder; packed rows need a decoder alone")
    kinds = sorted(_kinds(model) - EXACT - RECURRENT)
    if kinds:
        raise AttentionError(
            f"{name} has layers of type {kinds}; a packed row is exact in full and sliding-window "
            "attention only, and in recurrent layers that tree-recurrence knows"
        )
    layers = list(attention_layers(model))
    if not layers:
        raise AttentionError(f"{name} has no causal attention layers that could be packed")
    if model.get_output_embeddings() is None:
        raise AttentionError(
            f"{name} has no language-model head (get_output_embeddings() is None), and the targets "
            "of a packed row are tokens; use a ...ForCausalLM or ...ForConditionalGeneration, or, "
            "for hidden states alone, tp.hf.register() and model.set_attn_implementation"
        )
    _check_windows(name, layers, getattr(text, "layer_types", None) or ())
    if backend != "flex" and getattr(text, "attn_logit_softcapping", None) is not None:
        raise AttentionError(
            f"{name} soft-caps its attention scores, which has no varlen kernel; prepare it with "
            'backend="flex"'
        )
    for field in DROPOUTS:
        if getattr(text, field, None):
            raise AttentionError(
                f"{name} has {field}={getattr(text, field)}, and varlen kernels have no dropout; "
                "set it to 0.0 in the text config before the model is built"
            )


def _check_windows(name: str, layers: Sequence[Any], kinds: Sequence[str]) -> None:
    for layer in layers:
        index = getattr(layer, "layer_idx", None)
        is_local = index is not None and index < len(kinds) and kinds[index] == "sliding_attention"
        if is_local and getattr(layer, "sliding_window", None) is None:
            raise AttentionError(
                f"layer {index} of {name} has a sliding window that it does not tell its attention "
                "function; a packed row would attend beyond it"
            )


def is_hybrid(model: Any) -> bool:
    """Whether some layers of a model are recurrent: linear attention, Mamba or convolutions."""
    return bool(_kinds(model) & RECURRENT)


def makes_all_logits(model: Any) -> bool:
    """Whether the forward of a model, and of the part with its head, has no ``logits_to_keep``."""
    head = model.get_output_embeddings()
    return not any(
        "logits_to_keep" in inspect.signature(type(part).forward).parameters
        for part in model.modules()
        if hasattr(part, "get_output_embeddings") and part.get_output_embeddings() is head
    )


def _kinds(model: Any) -> set[str]:
    text = model.config.get_text_config()
    fields = (getattr(text, name, None) or () for name in ("layer_types", "layers_block_type"))
    return {kind for kinds in fields for kind in kinds}


def check_reached(model: Any, name: str) -> None:
    """Reject a model with attention that stayed as it was, though ``name`` was set.

    Raises:
        AttentionError: a layer does not use the attention interface of transformers.
    """
    missed = [layer for layer in attention_layers(model) if implementation_of(layer) != name]
    if missed:
        raise AttentionError(
            f"{type(missed[0]).__name__} of {type(model).__name__} does not take its attention "
            "from the attention interface of transformers; this model cannot be packed"
        )


def warn_of_rotary_lengths(model: Any) -> None:
    """Tell of rotary frequencies that depend on the longest position of a row.

    Warns:
        UserWarning: they do.
    """
    text = model.config.get_text_config()
    given = getattr(text, "rope_parameters", None) or {}
    # Models with several kinds of layers have parameters for each.
    each = [value for value in given.values() if isinstance(value, Mapping)] or [given]
    for rope in each:
        kind = rope.get("rope_type") or ""
        if "dynamic" in kind or kind == "longrope":
            length = rope.get("original_max_position_embeddings") or text.max_position_embeddings
            warnings.warn(
                f"{type(model).__name__} has rope_type={kind!r}: its rotary frequencies depend on "
                f"the longest position of the row. Where a path is longer than {length} tokens, "
                "all paths of its row get the frequencies of long ones, as in a padded batch of "
                "transformers, and differ from each path alone; rows of shorter paths are exact",
                UserWarning,
                stacklevel=3,
            )
            return


def attention_layers(model: Any) -> Iterator[Any]:
    """The modules of a model that compute causal attention."""
    return (m for m in model.modules() if getattr(m, "is_causal", None) is True)


def implementation_of(layer: Any) -> str | None:
    """Name of the attention that a layer asks transformers for, if it says so."""
    return getattr(getattr(layer, "config", None), "_attn_implementation", None)
