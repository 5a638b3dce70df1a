"""Hugging Face: prepare a model for packed message trees, and what comes with it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from treepack.hf.attention import register
    from treepack.hf.loss import molmo2_weights, weighted_loss
    from treepack.hf.model import prepare

_LAZY = {
    "molmo2_weights": "treepack.hf.loss",
    "prepare": "treepack.hf.model",
    "register": "treepack.hf.attention",
    "weighted_loss": "treepack.hf.loss",
}

__all__ = ["molmo2_weights", "prepare", "register", "weighted_loss"]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'treepack.hf' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
