"""Reinforcement learning and preferences: each prompt, and each image of it, is computed once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from treepack._lazy import lazy_names
from treepack.rl.fold import Folded, fold
from treepack.rl.logprobs import Scores, logprobs, padded_logprobs, score, score_row
from treepack.rl.trl_attention import register_trl_tree_attention

if TYPE_CHECKING:
    from treepack.rl.grpo import GRPOTrainer, TreeGRPO

__all__ = [
    "Folded",
    "GRPOTrainer",
    "Scores",
    "TreeGRPO",
    "fold",
    "logprobs",
    "padded_logprobs",
    "register_trl_tree_attention",
    "score",
    "score_row",
]

if not TYPE_CHECKING:
    # They import TRL.
    __getattr__, __dir__ = lazy_names(
        __name__, dict.fromkeys(("GRPOTrainer", "TreeGRPO"), "treepack.rl.grpo")
    )
