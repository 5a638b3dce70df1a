"""Feed vision-language training: message trees, packing under several budgets, exact attention.

``import treepack`` needs numpy alone; torch and transformers are imported by what uses them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from treepack import errors
from treepack.tree import MessageTree

if TYPE_CHECKING:
    from treepack import costs, hf, state, testing, train, viz
    from treepack._core import Pack, Packer, TreeMask
    from treepack.attention import tree_attention
    from treepack.batch import PackedBatch, collate
    from treepack.conversations import Conversations, group_conversations
    from treepack.dataset import PackedDataset
    from treepack.mixture import Mixture

__version__ = "0.1.0"

_LAZY = {
    "Conversations": "treepack.conversations",
    "Mixture": "treepack.mixture",
    "Pack": "treepack._core",
    "Packer": "treepack._core",
    "PackedBatch": "treepack.batch",
    "PackedDataset": "treepack.dataset",
    "TreeMask": "treepack._core",
    "collate": "treepack.batch",
    "group_conversations": "treepack.conversations",
    "tree_attention": "treepack.attention",
}
_SUBMODULES = ("costs", "hf", "state", "testing", "train", "viz")

__all__ = [
    "Conversations",
    "MessageTree",
    "Mixture",
    "Pack",
    "PackedBatch",
    "PackedDataset",
    "Packer",
    "TreeMask",
    "collate",
    "costs",
    "errors",
    "group_conversations",
    "hf",
    "state",
    "testing",
    "train",
    "tree_attention",
    "viz",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        value = getattr(importlib.import_module(_LAZY[name]), name)
    elif name in _SUBMODULES:
        value = importlib.import_module(f"treepack.{name}")
    else:
        raise AttributeError(f"module 'treepack' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY, *_SUBMODULES})
