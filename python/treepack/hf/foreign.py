"""Batches of one family given to the model of another are rejected by name."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from treepack.errors import BatchError

HOOK = "_treepack_foreign"
"""Attribute of a model with the hook that `watch` has put on it."""


def watch(model: nn.Module) -> None:
    """Reject batches with media of another family before the model runs.

    Without it they fail deep in the vision tower or in the embedding, with an index out of range,
    or a model swallows what it does not know.

    Args:
        model: of transformers; its forward says which media it takes.
    """
    setattr(model, HOOK, model.register_forward_pre_hook(_check, with_kwargs=True))


def unwatch(model: nn.Module) -> None:
    """Undo `watch`."""
    getattr(model, HOOK).remove()
    delattr(model, HOOK)


def watches(model: nn.Module) -> bool:
    """Whether `watch` has put a hook on the model."""
    return hasattr(model, HOOK)


@functools.cache
def _makers() -> dict[str, list[str]]:
    """The families that make each input of a vision tower."""
    from treepack.families import families

    found: dict[str, list[str]] = {}
    for name, kind in families().items():
        for media in kind.media_names.values():
            for each in media:
                found.setdefault(each, []).append(name)
    return found


@functools.cache
def _foreign(forward: Callable[..., Any]) -> frozenset[str]:
    """Inputs of vision towers that a model's forward does not take."""
    return frozenset(_makers().keys() - inspect.signature(forward).parameters.keys())


def _check(model: nn.Module, _: Any, kwargs: dict[str, Any]) -> None:
    # Families are looked at only where there are media: text models need none of it.
    if "treepack" not in kwargs or not any(name.startswith("pixel_values") for name in kwargs):
        return
    found = sorted(_foreign(type(model).forward).intersection(kwargs))
    if found:
        makers = " or ".join(map(repr, _makers()[found[0]]))
        raise BatchError(
            f"the batch has {found}, which {type(model).__name__} does not take; family {makers} "
            "makes that. Give PackedDataset the processor of this model"
        )
