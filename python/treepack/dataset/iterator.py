"""The packed rows of one worker: its virtual shards, round-robin.

The iterator in numbered steps; `PackIterator.__next__` is the loop:

1. At the start, or at a state: find out which virtual shards are ours (sharding.py), make a reader,
   a packer and a pool for each (shards/), and restore those in the state.
2. The shard that has given fewest packs is next; of several, the one with the smallest number.
3. It reads, measures and pushes examples until its packer lets a pack go, and loads that pack.
   With nothing left, it ends, and step 2 goes on without it.
4. The trees of the pack are collated into a row. If ranks would wait for each other because of it,
   and nobody has said that they do not, that is an error.
5. The state after this row is taken and travels with it.

An error leaves the iterator usable: the next call goes on without the example that failed. So does
an interrupt, with nothing lost where the source can go back: the shard at work is restored to where
it stood before the interrupted step.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from typing import Any

from torch.utils.data import get_worker_info

from treepack.batch import PackedBatch, collate
from treepack.dataset._settings import Settings
from treepack.dataset.sharding import Ownership, next_shard, own
from treepack.dataset.shards.base import FATAL, Shard
from treepack.dataset.shards.examples import Examples
from treepack.dataset.shards.iterables import ResumePoint
from treepack.dataset.shards.pack_shard import PackShard
from treepack.dataset.shards.readers import make_readers
from treepack.dataset.shards.virtual_shard import VirtualShard
from treepack.dataset.state import Iteration, Scope, ShardState, seal, shards_of, unsealed
from treepack.errors import BatchError, DatasetError, TreepackError
from treepack.families.row_inputs import media_kinds
from treepack.sources.protocol import is_map_style
from treepack.tree import MessageTree

log: logging.Logger = logging.getLogger("treepack")


class UndecidedError(DatasetError):
    """A setting has to be decided; the examples at hand are as good as others and are kept."""


class PackIterator:
    """The rows of the virtual shards of one worker, as `PackedBatch`.

    Args:
        settings: what is packed, and how.
        state: where to go on, or ``None`` to begin.
        iteration: which one of its worker this is, or ``None`` outside of a worker; it travels with
            each row.

    Raises:
        DatasetError: ranks times workers does not divide the number of virtual shards.
        StateError: the state does not cover the shards of this worker.
    """

    def __init__(
        self,
        settings: Settings,
        state: Mapping[str, Any] | None = None,
        iteration: Iteration | None = None,
    ) -> None:
        self.settings = settings
        self.iteration = iteration
        # The same in every state, and it takes time to make.
        self._fingerprint = settings.fingerprint()
        # Whether a step ended with an interrupt, and whether another iteration has begun.
        self._is_interrupted = self._is_retired = False
        self.set_state(state)
        if self._is_undecided and self._ownership.owner == 0:
            log.warning(
                "vision_on_every_row is not set, and %d ranks train a model with a vision tower: a "
                "row of text alone would be an error. Set it to True, which keeps room in every "
                "row, so that states saved without it do not fit; or to False if no row is",
                self._shard[1],
            )

    def set_state(self, state: Mapping[str, Any] | None) -> None:
        """Go on from a state of these settings, or begin anew (step 1)."""
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        settings = self.settings
        # The iterator keeps what it began with; a state that it gives later is of the same shard.
        self._shard = settings.find_shard()
        ownership = own(state, self._shard, worker, workers, settings.virtual_shards)
        shards = make_shards(settings, ownership, shards_of(state))
        self._ownership = ownership
        # All that this worker owns, and those that have not ended.
        self._shards, self._live = shards, list(shards)
        # The state of each shard after its last pack, as far as somebody has asked for it,
        # and that of the shard at work before the step that is being made.
        self._states: dict[int, ShardState] = {}
        self._before: dict[int, ShardState] = {}

    def __iter__(self) -> PackIterator:
        return self

    def __next__(self) -> PackedBatch:
        if self._is_retired:
            raise DatasetError(
                f"another iteration over this {type(self.settings.source).__name__} has begun, and "
                "only one at a time can read an iterable; make a dataset for each iteration"
            )
        if self._is_interrupted and self._can_resume:
            # What was in flight is read again.
            self.set_state(self.state_dict())
            self._is_interrupted = False
        self._before = {}
        try:
            return self._next_row()
        except Exception as error:
            if isinstance(error, UndecidedError):
                self._interrupt()
            raise
        except BaseException:
            self._interrupt()
            raise

    def _interrupt(self) -> None:
        self._is_interrupted = True
        self._states.update(self._before)

    def retire(self) -> None:
        """Another iteration over the dataset begins; two at a time need a source read by index."""
        self._is_retired = not is_map_style(self.settings.source)

    def state_dict(self) -> dict[str, Any]:
        """Where the iteration stands after the row that it gave last."""
        return seal(self._unsealed(None))

    def _unsealed(self, iteration: Iteration | None) -> dict[str, Any]:
        for shard in self._shards:
            if shard.index not in self._states:
                self._states[shard.index] = shard.state()
        ordered = [self._states[shard.index] for shard in self._shards]
        total = self._ownership.total
        return unsealed(self._fingerprint, self._scope(), total, ordered, iteration)

    def _after_row(self) -> dict[str, Any]:
        """What travels with the row that is being made."""
        return self._unsealed(self.iteration)

    @property
    def _can_resume(self) -> bool:
        return self.settings.why_not_resumable is None

    def _next_row(self) -> PackedBatch:
        while self._live:
            # Those that have not ended differ by at most one pack, so this is round-robin.
            shard = min(self._live, key=lambda live: (live.packs, live.index))
            self._note_before(shard)
            trees = shard.next_pack()
            if trees is None:
                self._live.remove(shard)
                continue
            self._check_tower(trees)
            batch = self._collate_or_skip(trees, shard)
            if batch is not None:
                shard.leaving.end()
                return batch
        raise StopIteration

    def _note_before(self, shard: Shard) -> None:
        if self._can_resume:
            state = self._states.pop(shard.index) if shard.index in self._states else None
            self._before = {shard.index: state or shard.state()}

    @property
    def _media_names(self) -> Mapping[str, tuple[str, ...]]:
        # Families of users may do without.
        return getattr(self.settings.family, "media_names", {})

    @property
    def _is_undecided(self) -> bool:
        """Whether ranks would wait for each other on some rows, and nobody has said they do not."""
        says_nothing = self.settings.vision_on_every_row is None
        return says_nothing and self._shard[1] > 1 and bool(self._media_names)

    def _check_tower(self, trees: list[MessageTree]) -> None:
        """Reject a row on which the vision tower runs more or less often than on other ranks'."""
        if not self._is_undecided:
            return
        kinds = sorted(media_kinds(trees, self._media_names))
        if len(kinds) != 1:
            rank, world = self._shard
            raise UndecidedError(
                f"rank {rank} of {world}: the row of {[tree.key for tree in trees]} has "
                f"{' and '.join(kinds) or 'text alone'}, so the model runs its vision tower "
                f"{len(kinds)} times on it, and once on a row of one kind of media; ranks that "
                "differ in this wait for each other for ever (FSDP) or fail (DDP). Pass "
                "vision_on_every_row=True to PackedDataset; or vision_on_every_row=False if yours "
                "may differ: under DDP with find_unused_parameters=True or with the tower and its "
                "projector frozen, under FSDP with both frozen and not sharded by themselves"
            )

    def _collate_or_skip(self, trees: list[MessageTree], shard: Shard) -> PackedBatch | None:
        try:
            return self._collate(trees, shard)
        except FATAL:
            raise
        except Exception as error:
            told = _of_row(error, [tree.key for tree in trees])
            self._lose_row(shard)
            if not self.settings.policy.skips:
                raise told from error
            shard.skip(told, shard.leaving, len(trees))
            return None

    def _lose_row(self, shard: Shard) -> None:
        """Forget what was known of a shard whose row could not be made."""
        self._states.pop(shard.index, None)

    def _collate(self, trees: list[MessageTree], shard: Shard) -> PackedBatch:
        settings, total = self.settings, None
        if settings.pad_to_budget:
            # A row of one oversize example may be longer.
            reserved = settings.budgets["tokens"] - settings.policy.budgets["tokens"]
            used = sum(tree.n_tokens for tree in trees) + reserved
            total = max(settings.budgets["tokens"], used)
        batch = collate(
            trees,
            family=settings.family,
            total=total,
            bidirectional=settings.bidirectional,
            budgets=settings.budgets,
            sliding_windows=settings.sliding_windows,
            vision_on_every_row=settings.vision_on_every_row or False,
            state=partial(seal, self._after_row()) if self._can_resume else None,
        )
        row = batch["treepack"]
        row.stats.update(shard.stats())
        row.waits = list(shard.waits)
        return batch

    def _scope(self) -> Scope:
        """The shards of this worker; if it is the only one of its rank, turned to the next one."""
        rank, world = self._shard
        scope = self._ownership.scope
        shard = next_shard([shard.index for shard in self._shards], self._states)
        if scope.owners > world or shard is None:
            return scope
        return scope._replace(offset=(shard - rank) % self._ownership.total)


def make_shards(
    settings: Settings, ownership: Ownership, saved: Mapping[int, ShardState]
) -> list[Shard]:
    """The virtual shards that a worker owns, each where its state says or at its start."""
    points = {shard: ResumePoint.of(shard, saved.get(shard)) for shard in ownership.shards}
    readers = make_readers(settings, points, ownership.total)
    examples = Examples(settings)
    policy, packs = settings.policy, settings.packs
    shards: list[Shard] = [
        VirtualShard(index, reader, examples, policy)
        if packs is None
        else PackShard(index, reader, examples, policy, packs)
        for index, reader in readers.items()
    ]
    for shard in shards:
        if shard.index in saved:
            shard.restore(saved[shard.index])
    return shards


def _of_row(error: Exception, names: list[Any]) -> TreepackError:
    if isinstance(error, TreepackError):
        return type(error)(f"{error} (in the row of {names})")
    return BatchError(f"collating failed: {type(error).__name__}: {error} (in the row of {names})")
