"""Hugging Face: prepare a model for packed message trees, and what comes with it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from treepack.hf.attention import register
    from treepack.hf.loss import molmo2_weights, weighted_loss
    from treepack.hf.model import prepare, restore, windows
    from treepack.hf.trainer import PackedTrainer

_LAZY = {
    "PackedTrainer": "treepack.hf.trainer",
    "molmo2_weights": "treepack.hf.loss",
    "prepare": "treepack.hf.model",
    "register": "treepack.hf.attention",
    "restore": "treepack.hf.model",
    "weighted_loss": "treepack.hf.loss",
    "windows": "treepack.hf.model",
}

__all__ = [
    "PackedTrainer",
    "molmo2_weights",
    "prepare",
    "register",
    "restore",
    "weighted_loss",
    "windows",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'treepack.hf' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
