"""Deferring the logits of a model: hooks on its head, and nothing replaced."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from treepack.errors import AttentionError
from treepack.hf.head.calls import HOOKS, JOB, check_whole, is_sharded
from treepack.hf.head.deferred import DeferredLogits, Source, versions

HIDDEN = "_treepack_hidden"
"""Attribute of a head while it runs: the hidden states that it does not see."""


def defer(model: Any) -> None:
    """Let the head of a model give `DeferredLogits`.

    Args:
        model: of transformers; its output embeddings are the head.
    """
    head = model.get_output_embeddings()
    before = head.register_forward_pre_hook(_keep_hidden)
    # The first of those after it, when FSDP has not freed the weights yet.
    after = head.register_forward_hook(_defer, prepend=True)
    vars(head)[HOOKS] = (before, after)
    vars(model)[HOOKS] = (model.register_forward_hook(_tell_if_computed),)


def undo(model: Any) -> None:
    """Undo `defer`, also where somebody has put a copy of the head in its place."""
    for module in model.modules():
        for hook in vars(module).pop(HOOKS, ()):
            hook.remove()


def defers(model: Any) -> bool:
    """Whether `defer` has changed a model."""
    return HOOKS in vars(model)


class _Uses(torch.autograd.Function):  # type: ignore[misc]
    """Hidden states as they are, with the head's parameters in their graph.

    DDP looks there for the parameters that an output depends on.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, *parameters: Tensor) -> Tensor:
        ctx.others = len(parameters)
        return hidden.view_as(hidden)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return (*gradients, *[None] * ctx.others)


def _keep_hidden(head: nn.Module, args: tuple[Any, ...]) -> Any:
    """Let the head itself run on one position: it tells shape and dtype, and hooks run as usual."""
    if JOB in vars(head):
        check_whole(head)
    # Of a call that has failed on the way.
    vars(head).pop(HIDDEN, None)
    if torch.compiler.is_compiling() or not args or not _can_be_deferred(head, args[0]):
        return None
    vars(head)[HIDDEN] = hidden = args[0]
    return (hidden.detach().narrow(-2, 0, min(1, hidden.shape[-2])), *args[1:])


def _defer(head: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    if torch.compiler.is_compiling() or HIDDEN not in vars(head):
        return None
    hidden, job = vars(head).pop(HIDDEN), vars(head).pop(JOB, None)
    if job is not None:
        return job()
    if not isinstance(output, Tensor) or output.shape[:-1] != args[0].shape[:-1]:
        raise AttentionError(
            f"the head {type(head).__name__} gives no logits [.., L, vocabulary] for hidden states "
            f"[.., L, {hidden.shape[-1]}], so they cannot be deferred; prepare the model with "
            'logits="full"'
        )
    outline = output.new_empty((*hidden.shape[:-1], output.shape[-1]), device="meta")
    is_autocast = torch.is_autocast_enabled(hidden.device.type)
    source = Source(head, outline, (), output.dtype, is_autocast, versions(head))
    learns = torch.is_grad_enabled()
    used = _Uses.apply(hidden, *head.parameters()) if learns else hidden.detach()
    return DeferredLogits.of(used, source)


def _can_be_deferred(head: nn.Module, hidden: Any) -> bool:
    """Whether a head has whole weights, and whole hidden states: no tensor parallelism."""
    if type(hidden) is not Tensor or hidden.ndim < 2:
        return False
    return not any(map(is_sharded, head.parameters()))


def _tell_if_computed(model: nn.Module, _: Any, output: Any) -> None:
    """After the model has run: have all of its logits been computed, and by whom?"""
    if torch.compiler.is_compiling() or not isinstance(output, Mapping):
        return
    logits = output.get("logits")
    is_deferred = isinstance(logits, DeferredLogits) and not logits.is_computed
    if is_deferred or not isinstance(logits, Tensor):
        return
    head: Any = model.get_output_embeddings()
    warnings.warn(
        f'{type(model).__name__} was prepared with logits="deferred", but computed all its logits: '
        f"{_why_computed(head)}. The loss is the same, and takes the memory that it takes without",
        UserWarning,
        stacklevel=2,
    )


def _why_computed(head: Any) -> str:
    name = type(head).__name__
    if HOOKS not in vars(head):
        return f"{name} has become its head since; prepare it again"
    if any(map(is_sharded, head.parameters())):
        return f"the weights of its head ({name}) are sharded, as by tensor parallelism"
    return f"something between its head ({name}) and its loss needs them"
