"""Prompts and responses as packed rows, and numbers of the rows back to each response."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from treepack.batch import PackedBatch, collate
from treepack.errors import BatchError
from treepack.options import Bidirectional
from treepack.rl.groups import Group, groups_of
from treepack.rl.trie import targets_of, tree_of
from treepack.tree import IGNORE

if TYPE_CHECKING:
    from treepack.families import Family
    from treepack.tree import MessageTree

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Folded:
    """Responses in packed rows, in which every prompt stands once; what `fold` returns.

    Attributes:
        rows: the packed rows, on the CPU.
        row_of: for each response the row that it is in.
        targets: for each response its targets in that row, int64 ``[n]``.
        tokens: of all rows together.
        unshared_tokens: of all prompts and responses, each prompt as often as it has responses.
    """

    rows: list[PackedBatch]
    row_of: list[int]
    targets: list[Int64]
    tokens: int
    unshared_tokens: int

    def unfold(self, values: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Give each response the numbers of its own targets.

        Args:
            values: for each row one number for each of its targets, ``[L]`` or ``[1, L]``.

        Returns:
            For each response, in the order of `fold`, ``[n]`` numbers; gradients go through.

        Raises:
            BatchError: not as many numbers as there are rows, or targets in a row.
        """
        if len(values) != len(self.rows):
            raise BatchError(f"{len(values)} lists of numbers for {len(self.rows)} rows")
        flat = [each.reshape(-1) for each in values]
        for place, (each, row) in enumerate(zip(flat, self.rows, strict=True)):
            if len(each) != row["targets"].numel():
                raise BatchError(
                    f"{len(each)} numbers for row {place}, which has {row['targets'].numel()} "
                    "targets; pass one for each, as of its logits"
                )
        found = zip(self.row_of, self.targets, strict=True)
        return [flat[row][torch.from_numpy(at).to(flat[row].device)] for row, at in found]

    def shift_labels(self, row: int) -> torch.Tensor:
        """The target of each token of a row, int64 ``[1, total]``; -100 where it has none.

        For heads and losses that take one label for each token of the row, as those of Liger and of
        sequence parallelism do.

        Args:
            row: its number.

        Raises:
            BatchError: a token predicts several targets; fold with ``forks_early=True``.
        """
        batch = self.rows[row]
        places, total = batch["logits_to_keep"], batch["input_ids"].shape[1]
        labels = torch.full((1, total), IGNORE)
        labels[0, places] = batch["targets"][0]
        if not torch.equal(labels[0, places], batch["targets"][0]):
            raise BatchError(
                f"tokens of row {row} predict several targets each, where responses part; fold "
                "with forks_early=True, which repeats those tokens"
            )
        return labels

    def unfold_tokens(self, values: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Give each response the numbers of the tokens that predict its own; see `shift_labels`.

        Args:
            values: for each row one number for each of its tokens, ``[total]`` or ``[1, total]``.

        Returns:
            As `unfold`.

        Raises:
            BatchError: not as many numbers as there are rows, or tokens in a row.
        """
        kept = []
        for each, batch in zip(values, self.rows, strict=False):
            total = batch["input_ids"].shape[1]
            if each.numel() != total:
                raise BatchError(f"{each.numel()} numbers for a row of {total} tokens")
            kept.append(each.reshape(-1)[batch["logits_to_keep"].to(each.device)])
        return self.unfold(kept)


def fold(
    prompts: Sequence[Any],
    responses: Sequence[Any],
    *,
    groups: Sequence[Hashable] | None = None,
    media: Sequence[Mapping[str, Any] | None] | None = None,
    family: Family | None = None,
    max_tokens: int | None = None,
    forks_early: bool = False,
    bidirectional: Bidirectional | None = None,
) -> Folded:
    """Fold prompts and their responses into packed rows in which each prompt stands once.

    Responses of one group become one message tree: the tokens that they begin with are a node, so
    they are computed once, whatever part of them is prompt and what response.

    Args:
        prompts: token ids of each prompt, one list for each response; at least one token.
        responses: token ids of each response, which may be empty.
        groups: what belongs together: responses share tokens within a group alone. By default
            those of one prompt are a group, the same tokens and the same media. Prompts of one
            group may differ, as those of later turns of a dialogue do, if they begin alike and have
            no media.
        media: for each response what the processor made of the images of its prompt, such as
            ``{"pixel_values": ..., "image_grid_thw": ...}``, or ``None``; image tokens stand in the
            prompt as the processor writes them. Needs ``family``.
        family: of the model, as ``treepack.families.find(processor)`` gives it; text models need
            none.
        max_tokens: tokens of a row. What does not fit goes into further rows, groups in parts if
            need be; ``None`` makes one row of everything.
        forks_early: repeat the last shared token wherever responses part, so that each token
            predicts one target (see `Folded.shift_labels`); it costs a token for each of them.
        bidirectional: which image tokens see later ones, as `treepack.collate` names it; by default
            the family's.

    Returns:
        The rows, and where each response is in them.

    Raises:
        BatchError: lists of different lengths, an empty prompt, a response that is longer than
            ``max_tokens`` with its prompt, prompts of a group that do not belong together, or media
            without what they need.

    Source:
        Prefix trees of responses: PrefixGrouper, arXiv 2506.05433; async GRPO of TRL.

    Example:
        >>> folded = fold([[1, 2, 3], [1, 2, 3]], [[4, 5], [4, 6, 7]])
        >>> folded.rows[0]["input_ids"].tolist(), folded.tokens, folded.unshared_tokens
        ([[1, 2, 3, 4, 5, 6, 7]], 7, 11)
        >>> [folded.rows[0]["targets"][0][each].tolist() for each in folded.targets]
        [[4, 5], [4, 6, 7]]
    """
    sequences, firsts = _sequences(prompts, responses)
    found = groups_of(sequences, firsts, groups, media, family, max_tokens, forks_early)
    trees = [[_tree(group, sequences) for group in row] for row in found]
    rows = [collate(each, family=family, bidirectional=bidirectional) for each in trees]
    row_of, targets = [0] * len(sequences), [np.empty(0, np.int64)] * len(sequences)
    for number, (row, each) in enumerate(zip(rows, found, strict=True)):
        for sequence, at in _targets(each, firsts, row["treepack"].target_counts):
            row_of[sequence], targets[sequence] = number, at
    tokens = sum(row["treepack"].mask.used for row in rows)
    return Folded(rows, row_of, targets, tokens, sum(map(len, sequences)))


def _tree(group: Group, sequences: Sequence[Int64]) -> MessageTree:
    return tree_of(group.trie, [sequences[n] for n in group.members], **group.media)


def _targets(
    groups: Sequence[Group], firsts: Sequence[int], counts: Int64
) -> Iterator[tuple[int, Int64]]:
    """For each sequence of a row its number, and its targets.

    Args:
        groups: of the row.
        firsts: where each response begins.
        counts: of the targets of each node of the row.
    """
    starts, used = (counts.cumsum() - counts).tolist(), 0
    for group in groups:
        own = starts[used : used + len(group.trie.stretches)]
        used += len(own)
        for place, sequence in enumerate(group.members):
            yield sequence, targets_of(group.trie, place, firsts[sequence], own)


def _sequences(prompts: Sequence[Any], responses: Sequence[Any]) -> tuple[list[Int64], list[int]]:
    """Each prompt with its response, int64 ``[n]``, and where the response begins."""
    if len(prompts) != len(responses):
        raise BatchError(
            f"{len(prompts)} prompts for {len(responses)} responses; repeat each prompt for each "
            "of its responses"
        )
    if not len(prompts):
        raise BatchError("there is no prompt; pass at least one, with its response")
    pairs = list(zip(prompts, responses, strict=True))
    halves = [
        (_ids(prompt, "prompt", n), _ids(response, "response", n))
        for n, (prompt, response) in enumerate(pairs)
    ]
    for n, (prompt, _) in enumerate(halves):
        if not len(prompt):
            raise BatchError(f"prompt {n} is empty; begin it with a token, such as BOS")
    return [np.concatenate(each) for each in halves], [len(prompt) for prompt, _ in halves]


def _ids(value: Any, what: str, number: int) -> Int64:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    array = np.asarray(value)
    if not array.size:
        return np.empty(0, np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu" or array.min() < 0:
        raise BatchError(
            f"{what} {number} must be token ids, integers of 0 or more on one axis, got "
            f"{array.dtype} of shape {list(array.shape)}"
            + (f" with {array.min()}" if array.dtype.kind in "iu" else "")
        )
    return array.astype(np.int64)
