"""Pack vision-language training: message trees, several budgets, exact attention.

``import treepack`` needs numpy alone; torch and transformers are imported by what uses them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from treepack import errors
from treepack._lazy import lazy_names
from treepack.tree import MessageTree

if TYPE_CHECKING:
    from treepack import costs, families, hf, rl, state, testing, train, viz
    from treepack._core import TreeMask
    from treepack.attention import tree_attention
    from treepack.batch import PackedBatch, collate
    from treepack.dataset import PackedDataset
    from treepack.packing import Pack, Packer
    from treepack.packing.balance import Balance
    from treepack.packing.offline import pack
    from treepack.packing.simulation import simulate
    from treepack.sources.conversations import Conversations, group_conversations
    from treepack.sources.mixture import Mixture

__version__ = "0.1.0"

__all__ = [
    "Balance",
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
    "families",
    "group_conversations",
    "hf",
    "pack",
    "rl",
    "simulate",
    "state",
    "testing",
    "train",
    "tree_attention",
    "viz",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "Balance": "treepack.packing.balance",
            "Conversations": "treepack.sources.conversations",
            "Mixture": "treepack.sources.mixture",
            "Pack": "treepack.packing",
            "PackedBatch": "treepack.batch[torch]",
            "PackedDataset": "treepack.dataset[torch]",
            "Packer": "treepack.packing",
            "TreeMask": "treepack._core",
            "collate": "treepack.batch[torch]",
            "group_conversations": "treepack.sources.conversations",
            "simulate": "treepack.packing.simulation",
            "pack": "treepack.packing.offline",
            "tree_attention": "treepack.attention[torch]",
            "testing": "treepack.testing[torch]",
            "train": "treepack.train[torch]",
            **{
                name: f"treepack.{name}"
                for name in ("costs", "families", "hf", "rl", "state", "viz")
            },
        },
    )
