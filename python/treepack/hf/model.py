"""Set a Hugging Face model up for packed message trees."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from treepack.errors import AttentionError

if TYPE_CHECKING:
    from torch import nn

    Model = TypeVar("Model", bound=nn.Module)

EXACT = {"full_attention", "attention", "full", "sliding_attention"}
"""Layer types in which a token sees all tokens before it, or those in a window."""

DROPOUTS = ("attention_dropout", "attn_pdrop", "attention_probs_dropout_prob")
"""Fields of configurations that set the dropout of attention weights."""

RECORD = "_treepack_prepared"
"""Attribute of a model with what `prepare` changed, so that `restore` can undo it."""


class Setting(NamedTuple):
    """What `prepare` sets: implementations of attention, by name of the part, and the loss."""

    attention: dict[str, str]
    loss: Any


class Restored:
    """What `restore` returns: as a context manager, it undoes the restoring at its end."""

    def __init__(self, model: Any, base: Any, now: Setting, packed: Setting) -> None:
        self._model = model
        self._base, self._now, self._packed = base, now, packed

    def __enter__(self) -> Any:
        return self._model

    def __exit__(self, *_: object) -> None:
        _change(self._base, self._now, self._packed)


def prepare(model: Model, backend: str | None = None) -> Model:
    """Make a model train on packed rows: ``model(**batch).loss`` is then the weighted loss.

    The attention implementation of the text model becomes ``"treepack"``, that of the vision tower
    stays as it is, and ``model.loss_function`` becomes `weighted_loss`. Nothing is patched: both
    are settings that transformers offers, and `restore` undoes them. Calling it twice is harmless.

    Args:
        model: a causal language model or vision-language model of transformers, also one wrapped
            by PEFT. It is changed in place.
        backend: that of `treepack.tree_attention`; by default the one of the device. Models that
            soft-cap their scores need ``"flex"``.

    Returns:
        The same model. It takes packed batches alone; without ``treepack`` in the batch it raises.

    Raises:
        AttentionError: the model has attention layers that a packed row cannot compute exactly
            (soft-capped scores without flex, linear or chunked attention, dropout, or a layer that
            does not use the attention interface of transformers); it has no language-model head;
            or there is no such backend. The model is then as it was.

    Warns:
        UserWarning: rotary frequencies depend on the longest position of the row (``dynamic``,
            ``longrope``): exact as long as no path is longer than the model's original length.

    Source:
        transformers' ``AttentionInterface`` and ``loss_function``; see `register`.

    Example:
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> sizes = dict(hidden_size=8, intermediate_size=8, num_attention_heads=2)
        >>> config = LlamaConfig(vocab_size=16, num_hidden_layers=1, **sizes)
        >>> prepare(LlamaForCausalLM(config)).config._attn_implementation
        'treepack'
    """
    from treepack.hf.attention import register
    from treepack.hf.loss import weighted_loss

    base = _base_of(model)
    _check(base, backend)
    name = register(backend)
    _undo(base)
    before = _setting(base)
    part = _text_part(base.config)
    base.set_attn_implementation(name if part is None else {part: name})
    base.loss_function = weighted_loss
    _record(base, before)
    missed = [layer for layer in _attention_layers(base) if _implementation(layer) != name]
    if missed:
        _undo(base)
        delattr(base, RECORD)
        raise AttentionError(
            f"{type(missed[0]).__name__} of {type(base).__name__} does not take its attention from "
            "the attention interface of transformers; this model cannot be packed"
        )
    _warn_of_rotary_lengths(base)
    return model


def restore(model: nn.Module) -> Restored:
    """Undo `prepare`, for good or for the block of a ``with`` statement.

    It acts at once, as ``torch.set_grad_enabled`` does. So after training, call it; to generate or
    evaluate in between, write ``with restore(model):``, and at the end of the block the model is
    set as it was before the block.

    The attention implementation of each part that `prepare` changed, and the loss function, become
    what they were before it; a setting that somebody else has changed since stays. Calling it twice
    changes nothing more.

    Args:
        model: a model that was prepared, also one wrapped by PEFT or ``torch.compile``; of a model
            in ``DistributedDataParallel``, its ``module``. It is changed in place.

    Returns:
        A context manager; ``as`` gives the model.

    Raises:
        AttentionError: the model was never prepared.

    Example:
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> sizes = dict(hidden_size=8, intermediate_size=8, num_attention_heads=2)
        >>> config = LlamaConfig(vocab_size=16, num_hidden_layers=1, **sizes)
        >>> model = prepare(LlamaForCausalLM(config))
        >>> with restore(model):
        ...     model.config._attn_implementation
        'sdpa'
        >>> model.config._attn_implementation
        'treepack'
        >>> _ = restore(model)
        >>> model.config._attn_implementation
        'sdpa'
    """
    base = _base_of(model)
    if not hasattr(base, RECORD):
        raise AttentionError(
            f"{type(base).__name__} was never prepared, so there is nothing to restore; pass the "
            "model that tp.hf.prepare was given (of a distributed wrapper, its .module)"
        )
    packed = _setting(base)
    _undo(base)
    return Restored(model, base, _setting(base), packed)


def sliding_windows(model: nn.Module) -> tuple[int, ...]:
    """Sliding windows of a model's attention layers, in tokens, increasing.

    Pass them to `treepack.PackedDataset` or `treepack.collate`, and the plan of each window is made
    with the row, in the worker. Otherwise it is made at its first use in the model, which
    ``torch.compile`` cannot trace.

    Args:
        model: as for `prepare`; it need not be prepared, and is not changed.

    Returns:
        Each window once; empty if every layer sees the whole row.

    Example:
        >>> from transformers import MistralConfig, MistralForCausalLM
        >>> sizes = dict(hidden_size=8, intermediate_size=8, num_attention_heads=8)
        >>> config = MistralConfig(vocab_size=16, num_hidden_layers=1, **sizes)
        >>> sliding_windows(MistralForCausalLM(config))
        (4096,)
    """
    found = set(map(_window, _attention_layers(_base_of(model))))
    return tuple(sorted(window for window in found if window is not None))


def is_packed(model: nn.Module) -> bool:
    """Whether a model takes packed batches: prepared, and not restored since."""
    from treepack.hf.attention import NAME
    from treepack.hf.loss import weighted_loss

    base = _base_of(model)
    attends = ((_implementation(layer) or "").startswith(NAME) for layer in _attention_layers(base))
    return any(attends) and base.loss_function is weighted_loss


def _base_of(model: Any) -> Any:
    model = getattr(model, "_orig_mod", model)
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _setting(base: Any) -> Setting:
    parts = (item for item in base.named_modules() if hasattr(item[1], "set_attn_implementation"))
    attention = {name: part.config._attn_implementation for name, part in parts}
    return Setting(attention, base.loss_function)


def _record(base: Any, before: Setting) -> None:
    """Note what was changed; by names, so that a copy of the model has a record of its own."""
    after = _setting(base)
    changed = [name for name, used in after.attention.items() if used != before.attention[name]]
    record = (Setting({n: s.attention[n] for n in changed}, s.loss) for s in (before, after))
    setattr(base, RECORD, tuple(record))


def _undo(base: Any) -> None:
    if hasattr(base, RECORD):
        before, after = getattr(base, RECORD)
        _change(base, after, before)


def _change(base: Any, start: Setting, end: Setting) -> None:
    """Change to ``end`` what is still as in ``start``."""
    now = _setting(base)
    for name, implementation in end.attention.items():
        if now.attention[name] == start.attention[name]:
            # The part alone: those in it have entries of their own.
            base.get_submodule(name).set_attn_implementation({"": implementation})
    if now.loss is start.loss:
        base.loss_function = end.loss


def _window(layer: Any) -> int | None:
    config = getattr(layer, "config", None)
    window: int | None = getattr(layer, "sliding_window", getattr(config, "sliding_window", None))
    return window


def _check(model: Any, backend: str | None) -> None:
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


def _warn_of_rotary_lengths(model: Any) -> None:
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


def _attention_layers(model: Any) -> Iterator[Any]:
    return (m for m in model.modules() if getattr(m, "is_causal", None) is True)


def _implementation(layer: Any) -> str | None:
    return getattr(getattr(layer, "config", None), "_attn_implementation", None)


def _text_part(config: Any) -> str | None:
    """Name of the text model's own configuration, ``None`` if it is the whole."""
    text = config.get_text_config()
    return next((name for name in config.sub_configs if getattr(config, name, None) is text), None)
