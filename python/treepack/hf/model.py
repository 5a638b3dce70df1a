"""Set a Hugging Face model up for packed message trees."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, get_args

from treepack.errors import AttentionError, MissingPackageError
from treepack.hf import foreign, recurrent
from treepack.hf.checks import (
    attention_layers,
    check_model,
    check_reached,
    implementation_of,
    is_hybrid,
    makes_all_logits,
    warn_of_batch_norms,
    warn_of_rotary_lengths,
)
from treepack.hf.compared import check_compared, note_passed
from treepack.hf.head import hooks as head_hooks
from treepack.hf.sequence import hooks as sequence_hooks
from treepack.hf.sequence.checks import check_shared
from treepack.hf.sequence.group import SequenceGroup
from treepack.options import AttentionBackend, Logits

if TYPE_CHECKING:
    from torch import nn

    Model = TypeVar("Model", bound=nn.Module)

RECORD = "_treepack_prepared"
"""Attribute of a model with what `prepare` changed, so that `restore` can undo it."""


class Setting(NamedTuple):
    """What `prepare` sets: attention by name of the part, the loss, and what hooks do."""

    attention: dict[str, str]
    loss: Any
    follows: bool
    watches: bool
    defers: bool
    ranks: SequenceGroup | None


class Restored:
    """What `restore` returns: as a context manager, it undoes the restoring at its end."""

    def __init__(self, model: Any, base: Any, now: Setting, packed: Setting) -> None:
        self._model = model
        self._base, self._now, self._packed = base, now, packed

    def __enter__(self) -> Any:
        return self._model

    def __exit__(self, *_: object) -> None:
        _change(self._base, self._now, self._packed)


def prepare(
    model: Model,
    backend: AttentionBackend | None = None,
    *,
    logits: Logits = "full",
    sequence_parallel: Any = None,
    unchecked: bool = False,
) -> Model:
    """Make a model train on packed rows: ``model(**batch).loss`` is then the weighted loss.

    The attention implementation of the text model becomes ``"treepack"``, that of the vision tower
    stays as it is, and ``model.loss_function`` becomes `weighted_loss`. Both are settings that
    transformers offers. Hybrids also have recurrent layers (Gated DeltaNet, Mamba2, short
    convolutions): the package tree-recurrence, in the extra ``treepack[hybrid]``, makes those
    follow the tree of each row. `restore` undoes it all. Calling it twice is harmless.

    Args:
        model: a causal language model or vision-language model of transformers, also one wrapped
            by PEFT. It is changed in place.
        backend: that of `treepack.tree_attention`; by default the one of the device. Models that
            soft-cap their scores need ``"flex"``.
        logits: ``"deferred"`` computes loss and log-probabilities (`token_logprobs`) from slices of
            the logits, which never exist all at once: much less memory for the same numbers.
            ``out.logits`` can still be looked at, and is then computed, before the next optimiser
            step. By default the model computes ``"full"`` logits, as it does by itself.
        sequence_parallel: process group, or ``DeviceMesh`` of one dimension, whose ranks compute
            each row together: all of them are given the same row, and each computes its part of the
            tokens and of the loss. Loss and gradients of the row are the means over these ranks,
            and DDP and FSDP average.
        unchecked: also take a model of a class that has never been compared with each path alone.
            Those that have been are listed with treepack, and `treepack.testing.check_exact` adds
            the class of a model that passes, for the rest of the process.

    Returns:
        The same model. It takes packed batches alone; without ``treepack`` in the batch it raises.

    Raises:
        AttentionError: the model has attention layers that a packed row cannot compute exactly
            (soft-capped scores without flex, chunked attention, recurrent layers that
            tree-recurrence does not know, dropout, or a layer that does not use the attention
            interface of transformers); it has no language-model head; the model is a hybrid and
            tree-recurrence is not installed; nobody has compared its class, and ``unchecked`` is
            not given; there is no such backend, or no such way to make logits; or ranks cannot
            share its rows (recurrent layers, query heads that the ranks do not divide, rotary
            frequencies that depend on the row). The model is then as it was.

    Warns:
        UserWarning: rotary frequencies depend on the longest position of the row (``dynamic``,
            ``longrope``): exact as long as no path is longer than the model's original length. Or
            the model has batch norms (FastVLM): exact while they are in evaluation mode. When the
            model runs: its logits were to be deferred and were computed all the same.

    Source:
        transformers' ``AttentionInterface`` and ``loss_function``, see `register`;
        tree-recurrence 0.1.1 for recurrent layers.

    Example:
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> sizes = dict(hidden_size=8, intermediate_size=8, num_attention_heads=2)
        >>> config = LlamaConfig(vocab_size=16, num_hidden_layers=1, **sizes)
        >>> prepare(LlamaForCausalLM(config)).config._attn_implementation
        'treepack'
    """
    base = _base_of(model)
    if logits not in get_args(Logits):
        raise AttentionError(f"logits={logits!r}, and it must be one of {get_args(Logits)}")
    check_model(base, backend)
    ranks = None if sequence_parallel is None else SequenceGroup(sequence_parallel)
    if ranks is not None:
        check_shared(base, ranks)
    _set_up(base, backend, logits, ranks, unchecked)
    warn_of_rotary_lengths(base)
    warn_of_batch_norms(base)
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
    found = set(map(_window, attention_layers(_base_of(model))))
    return tuple(sorted(window for window in found if window is not None))


def is_packed(model: nn.Module) -> bool:
    """Whether a model takes packed batches: prepared, and not restored since."""
    from treepack.hf.attention import NAME
    from treepack.hf.loss import weighted_loss, weighted_loss_of_row

    base = _base_of(model)
    attends = (
        (implementation_of(layer) or "").startswith(NAME) for layer in attention_layers(base)
    )
    return any(attends) and base.loss_function in (weighted_loss, weighted_loss_of_row)


def passed(model: nn.Module) -> None:
    """Let `prepare` take models of this class for the rest of the process."""
    note_passed(_base_of(model))


def _base_of(model: Any) -> Any:
    model = getattr(model, "_orig_mod", model)
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _set_up(
    base: Any,
    backend: AttentionBackend | None,
    logits: Logits,
    ranks: SequenceGroup | None,
    unchecked: bool,
) -> None:
    from treepack.hf.attention import register
    from treepack.hf.loss import weighted_loss, weighted_loss_of_row

    name = register(backend)
    _undo(base)
    before = _setting(base)
    part = _text_part(base.config)
    base.set_attn_implementation(name if part is None else {part: name})
    base.loss_function = weighted_loss_of_row if makes_all_logits(base) else weighted_loss
    _record(base, before)
    try:
        check_reached(base, name)
        if is_hybrid(base):
            recurrent.follow(base)
        if not unchecked:
            check_compared(base)
        foreign.watch(base)
        if logits == "deferred":
            head_hooks.defer(base)
        if ranks is not None:
            sequence_hooks.share(base, ranks)
    except (AttentionError, MissingPackageError):
        _record(base, before)
        _undo(base)
        delattr(base, RECORD)
        raise
    _record(base, before)


def _setting(base: Any) -> Setting:
    parts = (item for item in base.named_modules() if hasattr(item[1], "set_attn_implementation"))
    attention = {name: part.config._attn_implementation for name, part in parts}
    follows, watches = recurrent.follows(base), foreign.watches(base)
    ranks, defers = sequence_hooks.ranks_of(base), head_hooks.defers(base)
    return Setting(attention, base.loss_function, follows, watches, defers, ranks)


def _record(base: Any, before: Setting) -> None:
    """Note what was changed; by names, so that a copy of the model has a record of its own."""
    after = _setting(base)
    changed = [name for name, used in after.attention.items() if used != before.attention[name]]
    record = (s._replace(attention={n: s.attention[n] for n in changed}) for s in (before, after))
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
    if now.follows == start.follows != end.follows:
        (recurrent.follow if end.follows else recurrent.leave)(base)
    if now.watches == start.watches != end.watches:
        (foreign.watch if end.watches else foreign.unwatch)(base)
    if now.defers == start.defers != end.defers:
        (head_hooks.defer if end.defers else head_hooks.undo)(base)
    if now.ranks is start.ranks is not end.ranks:
        if now.ranks is not None:
            sequence_hooks.unshare(base)
        if end.ranks is not None:
            sequence_hooks.share(base, end.ranks)


def _window(layer: Any) -> int | None:
    config = getattr(layer, "config", None)
    window: int | None = getattr(layer, "sliding_window", getattr(config, "sliding_window", None))
    return window


def _text_part(config: Any) -> str | None:
    """Name of the text model's own configuration, ``None`` if it is the whole."""
    text = config.get_text_config()
    return next((name for name in config.sub_configs if getattr(config, name, None) is text), None)
