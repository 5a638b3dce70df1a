"""Set a Hugging Face model up for packed message trees."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from treepack.errors import AttentionError

if TYPE_CHECKING:
    from torch import nn

    Model = TypeVar("Model", bound=nn.Module)

EXACT = {"full_attention", "attention", "full", "sliding_attention"}
"""What configurations call a layer in which a token sees all before it, or those in a window."""

DROPOUTS = ("attention_dropout", "attn_pdrop", "attention_probs_dropout_prob")
"""What configurations call dropout of attention weights."""


def prepare(model: Model) -> Model:
    """Make a model train on packed rows: ``model(**batch).loss`` is then the weighted loss.

    Attention of the text model becomes ``"treepack"``, that of the vision tower stays as it is, and
    ``model.loss_function`` becomes `weighted_loss`. Nothing is patched: both are settings that
    transformers offers.

    Args:
        model: a causal language model or vision-language model of transformers, also one wrapped
            by PEFT. It is changed in place.

    Returns:
        The same model.

    Raises:
        AttentionError: attention layers that a packed row cannot serve exactly: with soft-capped
            scores, linear or chunked attention or dropout, or that do not go through the attention
            interface of transformers.

    Example:
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> sizes = dict(hidden_size=8, intermediate_size=8, num_attention_heads=2)
        >>> config = LlamaConfig(vocab_size=16, num_hidden_layers=1, **sizes)
        >>> prepare(LlamaForCausalLM(config)).config._attn_implementation
        'treepack'
    """
    from treepack.hf.attention import NAME, register
    from treepack.hf.loss import weighted_loss

    base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
    _check(base)
    register()
    part = _text_part(base.config)
    base.set_attn_implementation(NAME if part is None else {part: NAME})
    missed = [layer for layer in _attention_layers(base) if _implementation(layer) != NAME]
    if missed:
        raise AttentionError(
            f"{type(missed[0]).__name__} of {type(base).__name__} does not take its attention from "
            "the interface of transformers; this model cannot be packed"
        )
    base.loss_function = weighted_loss
    return model


def _check(model: Any) -> None:
    name = type(model).__name__
    if not hasattr(model, "set_attn_implementation"):
        raise AttentionError(f"{name} is not a model of transformers; pass the model itself")
    text = model.config.get_text_config()
    if getattr(model.config, "is_encoder_decoder", False):
        raise AttentionError(f"{name} is an encoder-decoder; packed rows need a decoder alone")
    for field in ("layer_types", "layers_block_type"):
        kinds = sorted(set(getattr(text, field, None) or ()) - EXACT)
        if kinds:
            raise AttentionError(
                f"{name} has layers of type {kinds}; a packed row is exact in full and "
                "sliding-window attention only"
            )
    layers = list(_attention_layers(model))
    if not layers:
        raise AttentionError(f"{name} has no causal attention layers that could be packed")
    _check_windows(name, layers, getattr(text, "layer_types", None) or ())
    if getattr(text, "attn_logit_softcapping", None) is not None:
        raise AttentionError(f"{name} soft-caps its attention scores, which has no varlen kernel")
    for field in DROPOUTS:
        if getattr(text, field, None):
            raise AttentionError(
                f"{name} has {field}={getattr(text, field)}, which varlen kernels cannot have; set "
                "it to 0.0 in the text config before the model is built"
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


def _attention_layers(model: Any) -> Iterator[Any]:
    return (m for m in model.modules() if getattr(m, "is_causal", None) is True)


def _implementation(layer: Any) -> str | None:
    return getattr(getattr(layer, "config", None), "_attn_implementation", None)


def _text_part(config: Any) -> str | None:
    """Name of the text model's own configuration, ``None`` if it is the whole."""
    text = config.get_text_config()
    return next((name for name in config.sub_configs if getattr(config, name, None) is text), None)
