"""Hugging Face: prepare a model for packed message trees, and what comes with it.

Public names:

    prepare          make a model train on packed rows
    restore          undo that, for good or for the block of a ``with`` statement
    PackedTrainer    ``Trainer`` for `PackedDataset`
    weighted_loss    the loss of a row from its logits
    token_logprobs   log-probabilities, and entropies, of the targets of a row
    molmo2_weights   weights of branches as in Molmo2, for ``PackedDataset(transform=)``
    sliding_windows  windows of a model's attention layers, for ``PackedDataset``
    register         make the attention known to transformers; `prepare` does
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from treepack._lazy import lazy_names

if TYPE_CHECKING:
    from treepack.hf.attention import register
    from treepack.hf.logprobs import token_logprobs
    from treepack.hf.loss import molmo2_weights, weighted_loss
    from treepack.hf.model import prepare, restore, sliding_windows
    from treepack.hf.trainer import PackedTrainer

__all__ = [
    "PackedTrainer",
    "molmo2_weights",
    "prepare",
    "register",
    "restore",
    "sliding_windows",
    "token_logprobs",
    "weighted_loss",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "PackedTrainer": "treepack.hf.trainer[hf]",
            "molmo2_weights": "treepack.hf.loss",
            "prepare": "treepack.hf.model[hf]",
            "register": "treepack.hf.attention[hf]",
            "restore": "treepack.hf.model[hf]",
            "sliding_windows": "treepack.hf.model[hf]",
            "token_logprobs": "treepack.hf.logprobs",
            "weighted_loss": "treepack.hf.loss",
        },
    )
