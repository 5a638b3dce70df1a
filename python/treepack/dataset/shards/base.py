"""What all kinds of virtual shards share."""

from __future__ import annotations

import logging
from typing import NamedTuple

from treepack.dataset._settings import Policy
from treepack.dataset.shards.examples import Arrival
from treepack.dataset.shards.iterables import BrokenSourceError
from treepack.dataset.state import ShardState
from treepack.errors import DatasetError, MissingPackageError, StateError, TreepackError
from treepack.tree import MessageTree

log: logging.Logger = logging.getLogger("treepack")


class BarrenSourceError(DatasetError):
    """An endless stream of examples of which none can be used."""


FATAL = (BarrenSourceError, BrokenSourceError, MissingPackageError, StateError)
"""Errors that belong to no single example: skipping one would not help."""


class Plan(NamedTuple):
    """A pack that was chosen and is not loaded.

    Attributes:
        entries: its examples, each with the costs that it was measured with.
        waits: how many packs each of them waited.
    """

    entries: list[tuple[Arrival, dict[str, int]]]
    waits: list[int]


class Shard:
    """Packs of a fixed part of the data, in order; it counts them, and examples that fail.

    Args:
        index: number of the shard.
        patience: how many examples in succession may be unusable.
        policy: how to pack.

    Attributes:
        packs: how many were handed out.
        skipped: examples that failed and were counted.
        has_ended: whether nothing is left.
        leaving: failures in succession of selected examples.
        waits: how many packs each example of the latest pack waited.
    """

    def __init__(self, index: int, patience: float, policy: Policy) -> None:
        self.index = index
        self.packs: int = 0
        self.skipped: int = 0
        self.has_ended: bool = False
        self.leaving: Streak = Streak(patience)
        self.waits: list[int] = []
        self._policy = policy

    def next_pack(self) -> list[MessageTree] | None:
        """The trees of the next pack, or ``None`` when the shard is used up."""
        raise NotImplementedError

    def plan(self) -> Plan | None:
        """The next pack, which somebody else loads; ``None`` when the shard is used up.

        A shard is asked for plans or for packs, never for both.
        """
        raise NotImplementedError

    def stats(self) -> dict[str, float]:
        """Numbers about what is waiting, and about what did not make it into a pack."""
        raise NotImplementedError

    def state(self) -> ShardState:
        """Where the shard stands: enough to go on as if nothing had happened."""
        raise NotImplementedError

    def restore(self, state: ShardState) -> None:
        """Go on from a `state`; the reader is at its place already."""
        raise NotImplementedError

    def skip(self, error: TreepackError, streak: Streak, examples: int = 1) -> None:
        """Count examples that failed; log a line when there are 1, 2, 4, 8, ... of them."""
        before, self.skipped = self.skipped, self.skipped + examples
        if before.bit_length() < self.skipped.bit_length():
            log.warning("%s (%d skipped in virtual shard %d)", error, self.skipped, self.index)
        streak.add(error, examples)

    def _failed(self, error: TreepackError) -> None:
        if not self._policy.skips or isinstance(error, FATAL):
            raise error
        self.skip(error, self.leaving)


class Streak:
    """Counts failures in succession, so that an endless stream of them comes to an end.

    Args:
        limit: how many are tolerated.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.length: int = 0

    def add(self, reason: object, examples: int = 1) -> None:
        """Count failures.

        Raises:
            BarrenSourceError: there are more than the limit.
        """
        self.length += examples
        if self.length > self.limit:
            raise BarrenSourceError(
                f"{self.length} examples in succession were skipped or dropped, and the stream has "
                f"no end; the last: {reason}"
            )

    def end(self) -> None:
        """Start counting anew: an example worked."""
        self.length = 0
