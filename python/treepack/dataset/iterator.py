"""The packs of one worker: its virtual shards, in turns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch.utils.data import get_worker_info

from treepack.batch import PackedBatch, collate
from treepack.dataset.examples import Examples
from treepack.dataset.readers import make_feeds
from treepack.dataset.state import Ownership, ShardState, make_state, next_shard, own
from treepack.dataset.virtual_shard import FATAL, VirtualShard, place_of
from treepack.errors import BatchError, DatasetError, TreepackError
from treepack.sources.protocol import is_map_style

if TYPE_CHECKING:
    from treepack.dataset import PackedDataset
    from treepack.tree import MessageTree


class PackStream:
    """The packs of the virtual shards of one worker, in turns.

    An error leaves the stream usable: the next call goes on without the example that failed. So
    does an interrupt, with nothing lost if the source can go back to a place.

    Args:
        dataset: says what is packed, and how.
        state: where to go on, or ``None`` to begin.
        stamp: of a worker's stream: a number that tells it from those of other passes, and whether
            it was given a state. It travels with each batch.
    """

    def __init__(
        self,
        dataset: PackedDataset,
        state: Mapping[str, Any] | None = None,
        stamp: list[int] | None = None,
    ) -> None:
        self.dataset = dataset
        self.stamp = stamp
        self.ownership = _own(dataset, state)
        saved = {s[0]: ShardState(*s) for s in state["shards"]} if state else {}
        examples = Examples(
            dataset.source,
            dataset.family,
            tuple(dataset.budgets),
            dataset.transform,
            dataset.bidirectional,
        )
        feeds = make_feeds(
            dataset.source,
            {shard: place_of(saved.get(shard), shard) for shard in self.ownership.shards},
            self.ownership.total,
            dataset.seed,
            dataset.shuffle,
            dataset.epochs,
            dataset.source_start,
        )
        self._shards = [
            VirtualShard(shard, feed, examples, dataset.policy) for shard, feed in feeds.items()
        ]
        for shard in self._shards:
            if shard.index in saved:
                shard.restore(saved[shard.index])
        self._order = [shard.index for shard in self._shards]
        self._live = list(self._shards)
        self._fingerprint = dataset.fingerprint()
        self._states: dict[int, ShardState] = {}
        self._before: dict[int, ShardState] = {}
        self._is_interrupted = self._is_retired = False

    def __iter__(self) -> PackStream:
        return self

    def __next__(self) -> PackedBatch:
        if self._is_retired:
            raise DatasetError(
                f"another iteration over this {type(self.dataset.source).__name__} has begun, and "
                "an iterable is read by one at a time; make a dataset for each"
            )
        if self._is_interrupted and self.dataset.obstacle is None:
            # What was in flight is read again.
            self.__init__(self.dataset, self.state_dict(), self.stamp)  # type: ignore[misc]
        self._before = {}
        try:
            return self._next_batch()
        except Exception:
            raise
        except BaseException:
            self._is_interrupted = True
            self._states.update(self._before)
            raise

    def retire(self) -> None:
        """Another stream of the same dataset begins; only what is read by index bears two."""
        self._is_retired = not is_map_style(self.dataset.source)

    def _next_batch(self) -> PackedBatch:
        while self._live:
            # Those that have not ended differ by at most one pack, so this is taking turns.
            shard = min(self._live, key=lambda live: (live.packs, live.index))
            if self.dataset.obstacle is None:
                state = self._states.pop(shard.index) if shard.index in self._states else None
                self._before = {shard.index: state or shard.state()}
            trees = shard.next_pack()
            if trees is None:
                self._live.remove(shard)
                continue
            try:
                batch = self._collate(trees, shard)
            except FATAL:
                raise
            except Exception as error:
                told = _of_row(error, [tree.key for tree in trees])
                if not self.dataset.policy.skips:
                    raise told from error
                shard.skip(told, shard.leaving, len(trees))
                self._states.pop(shard.index, None)
            else:
                shard.leaving.end()
                return batch
        raise StopIteration

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands after the pack that it gave last."""
        for shard in self._shards:
            if shard.index not in self._states:
                self._states[shard.index] = shard.state()
        return make_state(self._fingerprint, self._turned(), map(self._states.get, self._order))

    def _turned(self) -> Ownership:
        """A worker alone with its rank may say which shard comes next, for other workers."""
        rank, world = self.dataset.shard
        shard = next_shard(self._order, self._states)
        if self.ownership.owners > world or shard is None:
            return self.ownership
        return self.ownership._replace(offset=(shard - rank) % self.ownership.total)

    def _collate(self, trees: list[MessageTree], shard: VirtualShard) -> PackedBatch:
        total = None
        if self.dataset.pad_to_budget:
            # A row of one oversize example may be longer.
            used = sum(tree.n_tokens for tree in trees)
            total = max(self.dataset.budgets["tokens"], used)
        batch = collate(
            trees,
            family=self.dataset.family,
            total=total,
            bidirectional=self.dataset.bidirectional,
            budgets=self.dataset.budgets,
            windows=self.dataset.windows,
            state=self.state_dict() if self.dataset.obstacle is None else None,
        )
        if self.stamp is not None and batch["treepack"].state is not None:
            batch["treepack"].state["stream"] = self.stamp
        batch["treepack"].stats.update(shard.stats())
        return batch


def _of_row(error: Exception, names: list[Any]) -> TreepackError:
    if isinstance(error, TreepackError):
        return type(error)(f"{error} (in the row of {names})")
    return BatchError(f"collating failed: {type(error).__name__}: {error} (in the row of {names})")


def _own(dataset: PackedDataset, state: Mapping[str, Any] | None) -> Ownership:
    info = get_worker_info()
    worker, workers = (info.id, info.num_workers) if info else (0, 1)
    rank, world = dataset.shard
    ownership = own(
        state,
        rank=rank,
        world=world,
        worker=worker,
        workers=workers,
        virtual_shards=dataset.virtual_shards,
    )
    total, owners = ownership.total, ownership.owners
    if total % owners:
        fits = [n for n in range(1, total + 1) if total % (world * n) == 0]
        raise DatasetError(
            f"{world} ranks x {workers} workers = {owners} does not divide "
            f"virtual_shards={total}; "
            + (f"use num_workers from {fits}" if fits else f"no num_workers fits {world} ranks")
            + " or another virtual_shards"
        )
    return ownership
