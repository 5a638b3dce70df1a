"""How far a stream has come, as far as the process that holds the dataset knows.

Four things may be known. The state of the dataset is that of the first one in this table that is:

=============  ===================================================  ==============================
what           known from ... until ...                             the state is
=============  ===================================================  ==============================
``consumed``   the first ``consumed(batch)`` until a load, a reset  after the batches counted
               or the next ``iter(dataset)`` in this process
the board      workers begin, until a load or reset                 an error: which were used?
``iterator``   ``iter(dataset)`` here, until the next one           after the row given last
``loaded``     ``load_state_dict`` until an iteration has begun     the state that was loaded
=============  ===================================================  ==============================

and otherwise the start of the stream.
"""

from __future__ import annotations

import copy
import secrets
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from torch.utils.data import get_worker_info

from treepack.dataset._settings import Settings
from treepack.dataset._workers import Board, end_with_parent
from treepack.dataset.balanced import BalancedIterator
from treepack.dataset.iterator import PackIterator
from treepack.dataset.sharding import Ownership, check_scope, next_shard
from treepack.dataset.state import (
    Iteration,
    Scope,
    ShardState,
    check_fingerprint,
    check_state,
    is_balanced,
    iteration_of,
    make_state,
    scope_of,
    shards_of,
    whole_state,
    window_of,
)
from treepack.errors import StateError

if TYPE_CHECKING:
    from treepack.batch import PackedBatch

TOO_LATE = (
    "a state was loaded, but the workers were started before that and live on "
    "(persistent_workers=True); make a new DataLoader after load_state_dict()"
)


class Progress:
    """The place of one dataset in its stream.

    Args:
        settings: of the dataset.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        # The four of the table above.
        self._loaded: dict[str, Any] | None = None
        self._iterator: PackIterator | None = None
        self._consumed: Consumed | None = None
        self._board = Board()

    def begin(self) -> Iterator[PackedBatch]:
        """A new iteration in this process: the main one, or a worker with a copy of the dataset."""
        if self._iterator is not None:
            self._iterator.retire()
        state = self._loaded
        # A worker's copy of the dataset counts what it gives, not what its parent consumed.
        self._consumed = None
        worker = get_worker_info()
        if worker is not None:
            end_with_parent()
        if worker is None:
            self._board.clear()
        elif self._board.is_outdated:
            return _too_late()
        elif not self._board.begin(worker.id, worker.num_workers):
            # An earlier iteration of workers went on from there; this one begins anew.
            state = None
        stamp = Iteration(secrets.randbits(48), int(state is not None)) if worker else None
        kind = PackIterator if self._settings.balance is None else BalancedIterator
        iterator = kind(self._settings, state, stamp)
        # Not before: to go back to a place takes time, and may fail or be interrupted.
        self._loaded, self._iterator = None, iterator
        return iterator

    def state(self) -> dict[str, Any]:
        """Where the stream stands.

        Raises:
            StateError: workers are at work, and nobody said which of their batches were consumed.
        """
        if self._consumed is not None:
            return self._consumed.state()
        if self._board.has_workers and get_worker_info() is None:
            raise StateError(
                "worker processes make the batches, and batches wait in their queues; call "
                "dataset.consumed(batch) for each batch that was trained on"
            )
        if self._iterator is not None:
            return self._iterator.state_dict()
        return self.next_start()

    def next_start(self) -> dict[str, Any]:
        """The state in which the next iteration begins: the one loaded, or the stream's start."""
        if self._loaded is not None:
            return copy.deepcopy(self._loaded)
        settings = self._settings
        rank, world = settings.find_shard()
        # A balanced stream has no owners.
        scope = Scope(world, rank, 0) if settings.balance is None else Scope(1, 0, 0)
        return make_state(settings.fingerprint(), scope, settings.virtual_shards or 0)

    def load(self, state: Mapping[str, Any]) -> None:
        """Make the next iteration go on from a state.

        Raises:
            StateError: it is damaged, or belongs to another stream or rank.
        """
        settings = self._settings
        check_state(state, settings.fingerprint(), settings.virtual_shards)
        if settings.balance is None:
            check_scope(scope_of(state), settings.find_shard())
        self._iterator = self._consumed = None
        self._loaded = copy.deepcopy(dict(state))
        self._board.note_load()

    def reset(self) -> None:
        """Make the next iteration begin at the start of the stream."""
        self._loaded = self._iterator = self._consumed = None
        self._board.clear()

    def count(self, state: Mapping[str, Any]) -> None:
        """Count a batch as consumed, given the state that travelled with it.

        Raises:
            StateError: it is that of another rank or stream, or its workers do not know of a state
                that was loaded.
        """
        iteration = iteration_of(state)
        if self._loaded is not None and iteration is not None and not iteration.was_resumed:
            if not self._board.has_workers:
                raise StateError(TOO_LATE)
            # Another iteration has gone on from there; this one began anew.
            self._loaded = self._consumed = None
        consumed = self._consumed or Consumed(self.next_start(), self._settings.find_shard())
        self._consumed = consumed
        consumed.add(state)
        # The workers have it; another iteration begins anew.
        self._loaded = None

    def count_from(self, start: Mapping[str, Any]) -> None:
        """Count consumed batches from the start of an iteration that has just begun."""
        self._consumed = Consumed(start, self._settings.find_shard())

    def copy(self, settings: Settings) -> Progress:
        """That of a copy of the dataset, here or in a new process; what runs here stays here."""
        other = Progress(settings)
        other._consumed = copy.deepcopy(self._consumed)
        if self._board.send():
            other._loaded = self._loaded
        return other


class Consumed:
    """Collects the states of the batches that were consumed, whichever worker made them.

    Args:
        start: the state in which the stream began.
        shard: rank and size of the data-parallel group.
    """

    def __init__(self, start: Mapping[str, Any], shard: tuple[int, int]) -> None:
        self.start = start
        self.shard = shard
        # The iteration of each worker that was heard of, by owners and owner.
        self.iterations: dict[tuple[int, int], Iteration | None] = {}
        self.shards: dict[int, ShardState] = shards_of(start)
        # Of the batch that was counted last.
        self.latest: Mapping[str, Any] | None = None

    def add(self, state: Mapping[str, Any]) -> None:
        """Count a batch, given the state that travelled with it; a second time changes nothing.

        Raises:
            StateError: it is that of another rank or stream.
        """
        check_fingerprint(state["fingerprint"], self.start["fingerprint"])
        scope = scope_of(state)
        check_scope(scope, self.shard)
        iteration = iteration_of(state)
        if self._is_new(scope, iteration):
            self.shards.clear()
            self.iterations.clear()
            self.latest = None
        self.iterations[scope[:2]] = iteration
        if is_balanced(state):
            # What one worker gives counts for all.
            if self.latest is None or _taken(state) > _taken(self.latest):
                self.latest = state
            return
        shards = shards_of(state)
        if all(n in self.shards and s.packs <= self.shards[n].packs for n, s in shards.items()):
            return
        self.shards.update(shards)
        self.latest = state

    def _is_new(self, scope: Scope, iteration: Iteration | None) -> bool:
        """Whether a worker has begun again, from the start of the data, or others have."""
        known = self.iterations.get(scope[:2], iteration)
        others = any(owners != scope.owners for owners, _ in self.iterations)
        return others or known != iteration

    def state(self) -> dict[str, Any]:
        """The state of the rank after these batches."""
        if self.latest is None:
            return copy.deepcopy(dict(self.start))
        if is_balanced(self.latest):
            return whole_state(self.latest)
        rank, world = self.shard
        total = self.latest["virtual_shards"]
        shards = [self.shards[shard] for shard in sorted(self.shards)]
        scope = Scope(world, rank, self._offset(scope_of(self.latest), total))
        return make_state(self.latest["fingerprint"], scope, total, shards)

    def _offset(self, latest: Scope, total: int) -> int:
        """What makes the worker whose turn it is the first one, and its next shard the first.

        A loader asks its workers round-robin and leaves out those that have ended.
        """
        rank, world = self.shard
        for step in range(1, latest.owners // world + 1):
            owner = (latest.owner + step * world) % latest.owners
            worker = Ownership(latest.owners, owner, latest.offset, total)
            shard = next_shard(worker.shards, self.shards)
            if shard is not None:
                return (shard - rank) % total
        return latest.offset


def _taken(state: Mapping[str, Any]) -> int:
    window = window_of(state)
    return 0 if window is None else window.taken


def _too_late() -> Iterator[PackedBatch]:
    # With the first batch: an error of __iter__ itself would end the worker without a word.
    raise StateError(TOO_LATE)
    yield
