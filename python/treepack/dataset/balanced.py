"""The packed rows of one worker where packs are dealt to ranks: it plans all and loads its own.

Rows of a rank are numbered; worker ``w`` of ``W`` has those with ``number mod W == w``. Every plan
becomes exactly one row, so that ranks stay in step: one of which nothing could be loaded becomes a
filler, a single token that nothing is trained on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from torch.utils.data import get_worker_info

from treepack.batch import PackedBatch
from treepack.dataset._settings import Settings
from treepack.dataset.iterator import PackIterator, make_shards
from treepack.dataset.sharding import Ownership
from treepack.dataset.shards.base import Plan, Shard
from treepack.dataset.shards.dealer import Dealer
from treepack.dataset.shards.examples import Arrival, Examples
from treepack.dataset.shards.pack_shard import PackShard
from treepack.dataset.shards.readers import patience_of
from treepack.dataset.state import Iteration, Scope, Window, shards_of, unsealed, window_of
from treepack.errors import TreepackError
from treepack.packing.balance import Balance
from treepack.tree import MessageTree

FILLER = MessageTree([0])
"""Stands in for a pack of which nothing could be loaded."""


class BalancedShard(Shard):
    """The rows of one worker, as one shard: loads what is dealt to it.

    Args:
        settings: what is packed, and how.
        ownership: of this worker.
        state: where to go on, or ``None`` to begin.

    Attributes: those of `Shard`.
    """

    def __init__(
        self, settings: Settings, ownership: Ownership, state: Mapping[str, Any] | None
    ) -> None:
        patience = patience_of(settings.source, settings.epochs)
        super().__init__(0, patience, settings.policy)
        self._rank, ranks = settings.find_shard()
        self._worker, self._workers = ownership.owner // ranks, ownership.owners // ranks
        everything = Ownership(1, 0, 0, ownership.total)
        shards = make_shards(settings, everything, shards_of(state))
        window = window_of(state) if state else None
        balance = settings.balance or Balance()
        self._dealer = Dealer(shards, settings.source, balance, ranks, settings.seed, window)
        self._examples = Examples(settings)
        # Another one than that which plans, whose counters are those of all processes.
        first = make_shards(settings, everything, {})[0]
        self._checker = first if isinstance(first, PackShard) else None
        # The rows of this rank in the window, the next of them, and rows since the beginning.
        self._rows: list[Plan] | None = None
        self._row = self._number = 0
        # What is at work: a pack, and what of it is loaded and what is not.
        self._plan: Plan | None = None
        self._waiting: deque[tuple[Arrival, dict[str, int]]] = deque()
        self._loaded: list[MessageTree] = []
        # Examples of this row that failed.
        self._lost = 0

    def next_pack(self) -> list[MessageTree] | None:
        """The trees of the next row, none for a filler; ``None`` when the data are used up.

        The same row comes again until `finish` is called.

        Raises:
            TreepackError: an example cannot be measured, pushed or loaded.
        """
        if self._plan is None:
            self._plan = self._next_plan()
            if self._plan is None:
                self.has_ended = True
                return None
            self._waiting.extend(self._plan.entries)
            self._lost = 0
        self._load()
        trees = self._loaded
        if trees and self._checker is not None:
            self._check(trees, self._checker, self._plan.entries[0][0].position)
            trees = self._loaded
        self.waits: list[int] = self._plan.waits if trees else []
        return trees

    def _check(self, trees: list[MessageTree], checker: PackShard, position: int) -> None:
        before = checker.skipped
        # What does not fit fails once.
        self._loaded = []
        if checker.fits(trees, position):
            self._loaded = trees
        self._lost += checker.skipped - before

    def lose(self) -> None:
        """The trees of this row cannot be joined; it becomes a filler."""
        self._loaded = []

    def finish(self) -> None:
        """The row is made."""
        if self._loaded:
            self.leaving.end()
        self._plan, self._loaded = None, []

    def skip(self, error: TreepackError, streak: Any, examples: int = 1) -> None:
        """Count examples that failed, in this row, too."""
        self._lost += examples
        super().skip(error, streak, examples)

    def stats(self) -> dict[str, float]:
        """Numbers of all shards where the window ends, and what was lost of this row."""
        row = {"lost": float(self._lost), "filler": float(not self._loaded)}
        wait = float(max(self.waits, default=0))
        return {"shard": 0.0, **self._dealer.counted, "wait_max": wait, **row}

    def after(self) -> Window:
        """What a state says after the row at work."""
        return self._dealer.after(self._row)

    def _next_plan(self) -> Plan | None:
        while True:
            if self._rows is None:
                order = self._dealer.window()
                if not order:
                    return None
                self._rows = order[self._rank :: self._dealer.ranks]
                self._row = self._dealer.taken
            while self._row < len(self._rows):
                self._row += 1
                self._number += 1
                if (self._number - 1) % self._workers == self._worker:
                    return self._rows[self._row - 1]
            if self._dealer.is_last:
                return None
            self._dealer.next_window()
            self._rows = None

    def _load(self) -> None:
        while self._waiting:
            arrival, cost = self._waiting.popleft()
            try:
                self._loaded.append(self._examples.load(arrival, cost))
            except TreepackError as error:
                self._failed(error)


class BalancedIterator(PackIterator):
    """The rows of one worker, as `PackedBatch`, with the arguments and errors of `PackIterator`."""

    def set_state(self, state: Mapping[str, Any] | None) -> None:
        """Go on from a state of these settings, or begin anew."""
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        rank, world = self._shard = self.settings.find_shard()
        total = (state and state["virtual_shards"]) or self.settings.virtual_shards or 1
        self._ownership = Ownership(world * workers, rank + world * worker, 0, total)
        self._stream = BalancedShard(self.settings, self._ownership, state)
        # After the row that was given last; none yet.
        self._window = window_of(state) if state else None

    def _next_row(self) -> PackedBatch:
        while True:
            trees = self._stream.next_pack()
            if trees is None:
                raise StopIteration
            self._check_tower(trees)
            # What is wrong with a filler is no example's fault.
            make = self._collate_or_skip if trees else self._collate
            batch = make(trees, self._stream)
            if batch is not None:
                self._window = self._stream.after()
                self._stream.finish()
                return batch

    def _collate(self, trees: list[MessageTree], shard: Shard) -> PackedBatch:
        batch = super()._collate(trees or [FILLER], shard)
        if not trees:
            row = batch["treepack"]
            row.keys = []
            row.stats.update(examples=0.0, branches=0.0)
        return batch

    def _lose_row(self, shard: Shard) -> None:  # noqa: ARG002
        self._stream.lose()

    def _interrupt(self) -> None:
        self._is_interrupted = True

    def _unsealed(self, iteration: Iteration | None) -> dict[str, Any]:
        return self._of(self._window, iteration)

    def _after_row(self) -> dict[str, Any]:
        return self._of(self._stream.after(), self.iteration)

    def _of(self, window: Window | None, iteration: Iteration | None) -> dict[str, Any]:
        scope = Scope(1, 0, 0) if iteration is None else self._ownership.scope
        shards = window.shards if window else []
        return unsealed(self._fingerprint, scope, self._ownership.total, shards, iteration, window)
