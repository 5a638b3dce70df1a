"""Options that are one of a few words, as types that a checker reads and an editor completes.

Each is checked at run time too, where it is used.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

AttentionBackend: TypeAlias = Literal["cpu", "cuda", "fa3", "fa4", "flex", "reference"]
"""What runs the attention calls of a plan; see `treepack.tree_attention`."""

Bidirectional: TypeAlias = Literal[
    "none", "image_tokens", "within_image", "within_image_sliding", "prefix"
]
"""Which image tokens of a row see later ones; see `treepack.collate`."""

MaskBidirectional: TypeAlias = Literal["none", "image_tokens", "within_image"]
"""Which image tokens of one mask see later ones; see `treepack.TreeMask.from_nodes`."""

Oversize: TypeAlias = Literal["raise", "drop", "alone"]
"""What becomes of an example over a budget; see `treepack.Packer`."""

OversizeOrSplit: TypeAlias = (
    Literal["raise", "drop", "alone", "split"]
    | tuple[Literal["split"], Literal["raise", "drop", "alone"]]
)
"""The same where trees can be split at their branches; see `treepack.PackedDataset`."""

SimulatedOversize: TypeAlias = Literal["drop", "split"]
"""The same of `treepack.simulate`."""

OnError: TypeAlias = Literal["raise", "skip"]
"""What becomes of an example or a record that cannot be read, measured or loaded."""

OnCostMismatch: TypeAlias = Literal["raise", "requeue"]
"""What becomes of an example whose cost is not what was measured; see `treepack.PackedDataset`."""

MediumKind: TypeAlias = Literal["image", "video"]
"""What a medium of an example is; see `treepack.Conversations`."""

FormatName: TypeAlias = Literal[
    "caption",
    "conversations",
    "instruction",
    "messages",
    "preference",
    "prompt_completion",
    "query_response",
    "question_answer",
    "responses",
    "texts",
]
"""A format of records; see `treepack.group_conversations`."""

TextBeforeMedia: TypeAlias = Literal["move", "keep"]
"""What becomes of text before the media; see `treepack.group_conversations`."""

Solver: TypeAlias = Literal["anchors", "first_fit"]
"""How a `treepack.Packer` chooses a pack."""

PackOrder: TypeAlias = Literal["shuffled", "kept"]
"""The order of a whole table of costs; see `treepack.pack`."""

Effort: TypeAlias = Literal["fast", "best"]
"""How long `treepack.pack` searches."""

Logits: TypeAlias = Literal["full", "deferred"]
"""When logits are computed; see `treepack.hf.prepare`."""

EndOfData: TypeAlias = Literal["stop", "fill"]
"""What happens when the first rank runs out of packs; see `treepack.train.steps`."""

BalanceSync: TypeAlias = Literal["step", "micro"]
"""How often ranks wait for each other; see `treepack.Balance`."""

AdviceKind: TypeAlias = Literal[
    "binding", "raise", "lower", "oversize", "unmeasured", "pool", "ranks"
]
"""What an advice of `treepack.simulate` is about."""

CheckResult: TypeAlias = Literal["ok", "WRONG", "skipped", ""]
"""What `treepack.testing.doctor` found; empty for what only informs."""
