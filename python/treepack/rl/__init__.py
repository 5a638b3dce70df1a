"""Reinforcement learning and preferences: each prompt, and each image of it, is computed once.

Public names:

    logprobs                     log-probabilities of many responses
    padded_logprobs              the same of a padded batch
    fold                         prompts and responses as packed rows
    Folded                       what `fold` returns
    score                        log-probabilities of folded responses
    Scores                       what `score` returns
    score_row                    log-probabilities of the targets of any row
    GRPOTrainer                  TRL's, on message trees
    TreeGRPO                     the same as a mixin, for a ``GRPOTrainer`` of your own
    register_trl_tree_attention  for the trees of TRL's ``AsyncGRPOTrainer``
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from treepack._lazy import lazy_names
from treepack._packages import needing

# Two names are those of their modules, so they cannot wait for their first use.
with needing("torch", __name__):
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
    __getattr__, __dir__ = lazy_names(
        __name__, dict.fromkeys(("GRPOTrainer", "TreeGRPO"), "treepack.rl.grpo[rl]")
    )
