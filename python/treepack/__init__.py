"""Pack vision-language training: message trees, several budgets, exact attention.

Trees from data:

    group_conversations  records of conversations become one tree for each image
    Conversations        one example: its media, and every conversation about them
    MessageTree          a node of tokens and its branches: an example without a processor
    Mixture              several sources in one stream, in proportion to their weights
    families             how each kind of model wants its examples

Rows for a ``DataLoader``:

    PackedDataset        an ``IterableDataset`` of rows that fill every budget; resumes exactly
    PackedBatch          one row, as ``model(**batch)`` takes it
    collate              trees of your own choice as one row
    Balance              ranks that finish each step together
    state                saved places of a stream

A model, and its training:

    hf                   prepare a Hugging Face model; ``PackedTrainer``, loss, log-probabilities
    train                the steps of a training loop over several ranks
    rl                   responses to one prompt as one tree; TRL's ``GRPOTrainer``

Packing alone, from costs:

    Packer               chooses, from a small pool, what fills a row under every budget
    Pack                 the examples of one row
    pack                 a whole table of costs at once

Attention alone:

    TreeMask             the mask of a row, three integers for each token
    tree_attention       attention under that mask, forward and backward

Before you train, and when in doubt:

    costs                measure a data set; tables of costs
    simulate             how full rows will be, and what to change
    viz                  rows and simulations as pages
    testing              checks of your data, your model and this machine
    errors               everything that is raised; each is a ``ValueError``

``import treepack`` needs numpy alone; torch and transformers are imported by what uses them. By
name are imported: ``treepack.lightning``, whose ``PackedSteps`` is for Lightning, and
``treepack.options``, the words that options take. What neither this nor the documentation names is
internal.
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
            "rl": "treepack.rl[torch]",
            "testing": "treepack.testing[torch]",
            "train": "treepack.train[torch]",
            **{name: f"treepack.{name}" for name in ("costs", "families", "hf", "state", "viz")},
        },
    )
