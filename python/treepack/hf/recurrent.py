"""Hybrid models: their recurrent layers follow the tree of a row, through ``tree-recurrence``."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn

from treepack._packages import needing
from treepack.errors import AttentionError, BatchError
from treepack.hf.checks import text_model

if TYPE_CHECKING:
    from treepack._core import TreeMask

Result = TypeVar("Result")

HOOKS = "_treepack_hooks"
"""Attribute of a text model with the hooks that `follow` has put on it."""

_INSTALLED: weakref.WeakSet[nn.Module] = weakref.WeakSet()
"""Text models of this process that tree-recurrence knows of; a copy of one is another one."""


def follow(model: Any) -> None:
    """Make the recurrent layers of a model follow the tree of each packed row.

    A token's state is then that of the tokens before it on its path, whatever else is in the row.
    The functions that the layers call are replaced by tree-recurrence; what it reads is made from
    ``batch["treepack"]`` as the text model is called, so nothing but that has to reach it.

    Args:
        model: with Gated DeltaNet, Mamba2 or short convolutions; it is changed in place.

    Raises:
        AttentionError: tree-recurrence is not installed, or does not know these layers. The model
            is then as it was.
    """
    decoder = text_model(model)
    _install(decoder, type(model).__name__)
    hooks = (
        decoder.register_forward_pre_hook(_tell_tree, with_kwargs=True),
        decoder.register_forward_hook(_check_followed, with_kwargs=True),
    )
    setattr(decoder, HOOKS, hooks)


def leave(model: Any) -> None:
    """Undo `follow`; the layers of other models of this kind go on following."""
    decoder = text_model(model)
    for hook in getattr(decoder, HOOKS):
        hook.remove()
    delattr(decoder, HOOKS)
    _package(type(model).__name__).uninstall(decoder)
    _INSTALLED.discard(decoder)


def follows(model: Any) -> bool:
    """Whether `follow` has changed a model."""
    return hasattr(text_model(model), HOOKS)


def tree_kwargs(mask: TreeMask) -> dict[str, torch.Tensor]:
    """The tree of a row as tree-recurrence reads it: nodes that have tokens, and their parents.

    Args:
        mask: a row without bidirectional images. Its padding is left out.

    Returns:
        ``tree_cu_seqlens_q`` int32 ``[S + 1]``, where nodes begin in the row, and
        ``tree_segment_parents`` int64 ``[S]``, -1 for a root; both on the CPU, where they are read.

    Raises:
        BatchError: the row has image tokens that see later ones.

    Example:
        >>> import treepack as tp
        >>> made = tree_kwargs(tp.TreeMask.from_nodes([2, 0, 1, 3], [-1, 0, 1, 0], total=9))
        >>> made["tree_cu_seqlens_q"].tolist(), made["tree_segment_parents"].tolist()
        ([0, 2, 3, 6], [-1, 0, 0])
    """
    if len(mask.group_ptr) > 1:
        raise BatchError(
            f'this row has bidirectional="{mask.bidirectional}" with {len(mask.group_ptr) - 1} '
            "groups of image tokens that see later ones, and recurrent layers read from left to "
            'right; collate it with bidirectional="none", or train another model on it'
        )
    begins: list[int] = [0]
    parents: list[int] = []
    number: list[int] = []  # of the nearest node with tokens, from each node upwards
    nodes = (mask.node_start, mask.node_end, mask.node_parent)
    for start, end, parent in zip(*(column.tolist() for column in nodes), strict=True):
        above = number[parent] if parent >= 0 else -1
        if start == end:
            number.append(above)
            continue
        number.append(len(parents))
        parents.append(above)
        begins.append(end)
    return {
        "tree_cu_seqlens_q": torch.tensor(begins, dtype=torch.int32),
        "tree_segment_parents": torch.tensor(parents, dtype=torch.int64),
    }


def _tell_tree(decoder: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
    """Before the text model runs: what its recurrent layers have to know, beside the rest."""
    row = kwargs.get("treepack")
    if row is None:
        raise AttentionError(
            f"{type(decoder).__name__} got no mask: the model was prepared for packed batches and "
            "this one has no 'treepack'; pass the PackedBatch whole, as model(**batch) (in a "
            "Trainer: remove_unused_columns=False), or leave packing for a plain forward or "
            "generate(): with tp.hf.restore(model): ..."
        )
    return args, {**kwargs, **_untraced(_planned, decoder, row)}


def _planned(decoder: nn.Module, row: Any) -> dict[str, torch.Tensor]:
    mask = getattr(row, "mask", row)
    if not hasattr(mask, "node_parent"):
        raise AttentionError(
            f"{type(decoder).__name__} has recurrent layers, which need the tree of the row, and a "
            f"{type(row).__name__} does not have it; pass batch['treepack'] or a TreeMask"
        )
    package = _install(decoder, type(decoder).__name__)
    kwargs = tree_kwargs(mask)
    # Made once for all layers, and kept on the tensor.
    package.tree_plan(kwargs)
    return kwargs


def _check_followed(decoder: nn.Module, _: Any, kwargs: Mapping[str, Any], __: Any) -> None:
    """After the text model has run: have its layers looked at the tree?"""
    _untraced(_check_read, decoder, kwargs)


def _check_read(decoder: nn.Module, kwargs: Mapping[str, Any]) -> None:
    name = type(decoder).__name__
    plan = _package(name).tree_plan(kwargs)
    # What the layers gather by is kept there. An attribute of its own that may go is no reason.
    if getattr(plan, "_tensors", None) == {}:
        raise AttentionError(
            f"the recurrent layers of {name} ran on from one branch into the next: somebody took "
            "the functions of tree-recurrence away (tree_recurrence.uninstall(), kernelize) since "
            "tp.hf.prepare; prepare the model again"
        )


def _install(decoder: nn.Module, name: str) -> Any:
    package = _package(name)
    if decoder in _INSTALLED:
        return package
    support = package.install(decoder)
    if support.mode != "tree":
        package.uninstall(decoder)
        raise AttentionError(
            f"{name} has recurrent layers that tree-recurrence {package.__version__} cannot make "
            f"follow a tree: {support.reason}; train it with one example a row"
        )
    _INSTALLED.add(decoder)
    return package


def _package(name: str) -> Any:
    what = f"{name} with its recurrent layers (linear attention, Mamba or convolutions)"
    with needing("hybrid", what):
        import tree_recurrence
    return tree_recurrence


def _untraced(function: Callable[..., Result], *arguments: Any) -> Result:
    # Reading a mask cannot be compiled; where the compiler is not loaded it is not needed.
    if "torch._dynamo" in sys.modules:
        function = torch.compiler.disable(function)
    return function(*arguments)
