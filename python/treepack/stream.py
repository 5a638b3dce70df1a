"""The packs of one worker: its virtual shards, in turns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch.utils.data import get_worker_info

from treepack.batch import PackedBatch, collate
from treepack.errors import DatasetError, TreepackError
from treepack.feeds import make_feeds
from treepack.shards import VirtualShard, place_of
from treepack.sources import Examples
from treepack.state import Ownership, ShardState, make_state, next_shard, own

if TYPE_CHECKING:
    from treepack.dataset import PackedDataset
    from treepack.tree import MessageTree


class PackStream:
    """The packs of the virtual shards of one worker, in turns.

    An error leaves the stream usable: the next call goes on without the example that failed.

    Args:
        dataset: says what is packed, and how.
        state: where to go on, or ``None`` to begin.
    """

    def __init__(self, dataset: PackedDataset, state: Mapping[str, Any] | None = None) -> None:
        self.dataset = dataset
        self.ownership = _own(dataset, state)
        saved = {s[0]: ShardState(*s) for s in state["shards"]} if state else {}
        examples = Examples(
            dataset.source, dataset.family, tuple(dataset.budgets), dataset.transform
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

    def __iter__(self) -> PackStream:
        return self

    def __next__(self) -> PackedBatch:
        while self._live:
            # Those that have not ended differ by at most one pack, so this is taking turns.
            shard = min(self._live, key=lambda live: (live.packs, live.index))
            self._states.pop(shard.index, None)
            trees = shard.next_pack()
            if trees is None:
                self._live.remove(shard)
                continue
            try:
                return self._collate(trees, shard)
            except TreepackError as error:
                if not self.dataset.policy.skips:
                    names = [tree.key for tree in trees]
                    raise type(error)(f"{error} (in the row of {names})") from error
                shard.skipped += len(trees)
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
            budgets=self.dataset.budgets,
            state=self.state_dict() if self.dataset.obstacle is None else None,
        )
        batch["treepack"].stats.update(shard.stats())
        return batch


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
