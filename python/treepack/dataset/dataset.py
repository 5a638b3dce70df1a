"""A stream of packed rows for ``DataLoader(dataset, batch_size=None)``."""

from __future__ import annotations

import copy
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch.utils.data import IterableDataset, get_worker_info

from treepack.batch import PackedBatch
from treepack.dataset._settings import (
    check_dict,
    check_seed,
    check_shard,
    check_table,
    check_windows,
    default_shard,
    find_family,
    one_of,
    positive,
    shorten,
)
from treepack.dataset._workers import Board, check_caller, is_spawning
from treepack.dataset.iterator import PackStream
from treepack.dataset.state import Consumed, Ownership, check_scope, check_state, make_state
from treepack.dataset.virtual_shard import Policy
from treepack.errors import BudgetError, DatasetError, StateError
from treepack.sources.mixture import is_mixture
from treepack.sources.protocol import check_source, find_start, is_map_style

if TYPE_CHECKING:
    from treepack.sources.costs import CostTable
    from treepack.tree import MessageTree


class PackedDataset(IterableDataset[PackedBatch]):  # type: ignore[misc]
    """Packs a source of examples into rows that fill every budget.

    The stream is cut into ``V`` virtual shards: position ``p`` of the seeded order belongs to shard
    ``p mod V``, and each shard packs with a pool of its own. Rank ``r`` of ``R`` and worker ``w``
    of ``W`` own the shards ``s`` with ``s mod (R W) = r + R w`` and take turns among them. So pack
    ``n`` comes from shard ``n mod V`` until the first shard ends, and the packs do not depend on
    how many ranks and workers share the work.

    Args:
        source: ``__len__`` and ``__getitem__``, or an iterable. It yields `MessageTree`, or, with a
            processor, rows: `Conversations` or conversation dicts. Optional: ``measure(i)``, the
            cost of an example without loading it, and ``load(i)``; for iterables
            ``shard(num_shards, index)``.
        budgets: capacity of a row by name, such as ``{"tokens": 16_384, "crops": 128}``.
        costs: costs known in advance, from ``treepack.costs``: the source then needs no
            ``measure``, and its examples are loaded when they have been selected.
        processor: Hugging Face processor of the model; it selects the model family.
        family: name of the family, where the processor's class does not say it.
        chat: how turns are written, a ``treepack.families.ChatFormat``; by default the family's.
        pool_size: examples that a shard holds while it looks for a good pack.
        virtual_shards: ``V``; a multiple of ranks times workers. By default exactly that, which
            gives the best fill and the least memory; set it to change ranks or workers later.
        shard: ``(rank, world_size)`` of the data-parallel group, or its ``DeviceMesh`` such as
            ``mesh["dp"]``; by default that of ``torch.distributed`` when the dataset is built, or
            what ``torchrun`` will make it, else ``(0, 1)``.
        seed: of the order; ``shuffle=False`` keeps the source's own.
        shuffle: whether a map-style source is shuffled, anew in each epoch; an iterable keeps its
            order.
        epochs: passes over a map-style source; ``None`` never ends. Pools are flushed at the end of
            the last one only. A second pass over the dataset gives the same packs again: for
            several epochs, read a stream of several.
        oversize: an example over a budget: ``"raise"``, ``"drop"`` and count it, or ``"alone"`` in
            a row of its own.
        on_error: an example that cannot be read, measured or loaded: ``"raise"``, after which
            the stream can go on without it, or ``"skip"``, count it, and log it the more rarely the
            more there are. Examples that cannot be joined to one row go together.
        on_wrong_cost: an example that costs other than ``measure`` said: ``"raise"``, an error like
            any other, or ``"requeue"`` it with its real cost. No budget is broken either way.
        pad_to_budget: pad every row to the token budget, for static shapes.
        bidirectional: mode of image attention, ``"none"``, ``"image_tokens"`` or
            ``"within_image"``; by default the family's, else ``"none"``.
        windows: of the model's sliding attention, ``treepack.hf.windows(model)``, so that they are
            planned here; a compiled model needs that.
        transform: applied to each loaded tree, for instance `treepack.hf.molmo2_weights`. Costs
            are those of what it returns.
        packer: further settings for `Packer`, such as ``{"early": True}``.

    Raises:
        BudgetError: a budget that the model family does not measure.
        DatasetError: a source or a setting that cannot work.

    Example:
        >>> import treepack as tp
        >>> source = [tp.MessageTree([1] * n) for n in (3, 4, 2, 1, 5)]
        >>> dataset = tp.PackedDataset(source, budgets={"tokens": 8}, pool_size=3, shuffle=False)
        >>> [batch["treepack"].keys for batch in dataset]
        [[0, 1], [2, 3, 4]]
    """

    def __init__(
        self,
        source: Any,
        *,
        budgets: Mapping[str, int],
        costs: CostTable | None = None,
        processor: Any = None,
        family: str | None = None,
        chat: Any = None,
        pool_size: int = 48,
        virtual_shards: int | None = None,
        shard: tuple[int, int] | Any = None,
        seed: int = 0,
        shuffle: bool = True,
        epochs: int | None = 1,
        oversize: str = "raise",
        on_error: str = "raise",
        on_wrong_cost: str = "raise",
        pad_to_budget: bool = False,
        bidirectional: str | None = None,
        windows: Sequence[int] = (),
        transform: Callable[[MessageTree], MessageTree] | None = None,
        packer: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_source(source)
        if costs is not None:
            source = check_table(costs).attach(source)
        self.source = source
        self.budgets = check_dict("budgets", budgets)
        self.family = find_family(processor, family, chat, self.budgets)
        self.shard = check_shard(default_shard() if shard is None else shard)
        self.virtual_shards = positive("virtual_shards", virtual_shards)
        self.seed = check_seed(seed)
        self.shuffle = bool(shuffle)
        self.epochs = positive("epochs", epochs)
        if self.epochs != 1 and not is_map_style(source):
            raise DatasetError(
                f"epochs={epochs} of {type(source).__name__}: an iterable ends after one pass; "
                "repeat it in its own __iter__, or give it __len__ and __getitem__"
            )
        self.pad_to_budget = pad_to_budget
        self.bidirectional = bidirectional
        self.windows = check_windows(windows)
        if pad_to_budget and "tokens" not in self.budgets:
            raise BudgetError(f"pad_to_budget needs a budget 'tokens'; there are {list(budgets)}")
        self.transform = transform
        self.policy = Policy(
            self.budgets,
            {"pool_size": pool_size, "oversize": oversize, **check_dict("packer", packer or {})},
            skips=one_of("on_error", on_error, ("raise", "skip")) == "skip",
            requeues=one_of("on_wrong_cost", on_wrong_cost, ("raise", "requeue")) == "requeue",
        )
        self.policy.make_packer()
        self.obstacle, self.source_start = find_start(source)
        self._resume: dict[str, Any] | None = None
        self._stream: PackStream | None = None
        self._consumed: Consumed | None = None
        self._board = Board()

    def __iter__(self) -> Iterator[PackedBatch]:
        check_caller(sys._getframe(1))
        if self._stream is not None:
            self._stream.retire()
        state = self._resume
        # A worker's copy of the dataset counts what it gives, not what its parent consumed.
        self._consumed = None
        worker = get_worker_info()
        if worker is None:
            self._board.clear()
        elif self._board.is_outdated:
            return _refuse()
        elif not self._board.begin(worker.id, worker.num_workers):
            # An earlier pass of workers went on from there; this one begins anew.
            state = None
        stamp = [secrets.randbits(48), int(state is not None)] if worker else None
        stream = PackStream(self, state, stamp)
        # Not before: to go back to a place takes time, and may fail or be interrupted.
        self._resume, self._stream = None, stream
        return stream

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands: enough to go on as if nothing had happened.

        Valid before the first batch, between batches and after the last. In the process that packs,
        it is the state after the batch given last; once `consumed` has been called, the state after
        the batches consumed. Nothing but integers, strings and lists, without examples: at most
        1 KiB and 64 bytes for each place of a pool, for each virtual shard.

        Returns:
            A JSON-safe dict that covers the virtual shards of this rank. The state of all ranks is
            ``treepack.state.merge`` of them, and fits any number of ranks and workers.

        Raises:
            StateError: the source cannot go back to a place, or workers are at work and nobody said
                which of their batches were consumed.

        Example:
            >>> import json, treepack as tp
            >>> source = [tp.MessageTree([1] * n) for n in (3, 4, 2, 1, 5)]
            >>> def make():
            ...     return tp.PackedDataset(source, budgets={"tokens": 8}, shuffle=False)
            >>> first = make()
            >>> next(iter(first))["treepack"].keys
            [0, 4]
            >>> saved = json.dumps(first.state_dict())
            >>> second = make()
            >>> second.load_state_dict(json.loads(saved))
            >>> [batch["treepack"].keys for batch in second]
            [[1, 2, 3]]
        """
        if self.obstacle is not None:
            raise StateError(self.obstacle)
        if self._consumed is not None:
            return self._consumed.state()
        if self._board.has_workers and get_worker_info() is None:
            raise StateError(
                "worker processes make the batches, and batches wait in their queues; call "
                "dataset.consumed(batch) for each batch that was trained on"
            )
        if self._stream is not None:
            return self._stream.state_dict()
        return self.next_start()

    def next_start(self) -> dict[str, Any]:
        """The state in which the next iteration begins: the one loaded, or the stream's start."""
        if self._resume is not None:
            return copy.deepcopy(self._resume)
        rank, world = self.shard
        return make_state(
            self.fingerprint(), Ownership(world, rank, 0, self.virtual_shards or 0), ()
        )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Make the next iteration go on where a state was saved.

        Takes time for what the pools hold and no more, however far the stream had come. The number
        of virtual shards is taken from the state; ranks and workers may be others than before, if
        the state covers the shards that they own.

        Args:
            state: from `state_dict`, or the ``state`` of a `PackedRow` of a stream that one process
                packed. It is not modified.

        Raises:
            StateError: a state of another version, of another stream (seed, source, budgets,
                settings), of another rank, or a damaged one.
        """
        if self.obstacle is not None:
            raise StateError(self.obstacle)
        check_state(state, self.fingerprint(), self.virtual_shards)
        check_scope(state, *self.shard)
        self._stream = self._consumed = None
        self._resume = copy.deepcopy(dict(state))
        self._board.note_load()

    def reset(self) -> None:
        """Make the next iteration begin at the start of the stream."""
        self._resume = self._stream = self._consumed = None
        self._board.clear()

    def consumed(self, batch: Mapping[str, Any]) -> None:
        """Count a batch as trained on, so that `state_dict` knows where to go on.

        Workers and prefetching loaders are ahead of the training loop; the state of each batch
        travels with it, and this collects them. `treepack.train.steps` calls it by itself.

        Args:
            batch: a `PackedBatch` of this dataset; in the order in which the loader gives them.

        Raises:
            StateError: the batch carries no state, or that of another rank or dataset, or its
                workers do not know of a state that was loaded.
        """
        state = getattr(batch.get("treepack"), "state", None)
        if state is None:
            raise StateError(self.obstacle or "the batch carries no state")
        if self._resume is not None and not state.get("stream", (0, 1))[1]:
            if not self._board.has_workers:
                raise StateError(TOO_LATE)
            # Another pass has gone on from there; this one began anew.
            self._resume = self._consumed = None
        if self._consumed is None:
            self._consumed = Consumed(self.next_start(), *self.shard)
        self._consumed.add(state)
        # The workers have it; another pass begins anew.
        self._resume = None

    def count_from(self, start: Mapping[str, Any]) -> None:
        """Count consumed batches from the start of an iteration that has just begun.

        `state_dict` is then ``start`` until the first batch is `consumed`, however many a loader
        has fetched ahead. `treepack.train.steps` calls it by itself.

        Args:
            start: what `next_start` was before the iteration began.
        """
        self._consumed = Consumed(start, *self.shard)

    def fingerprint(self) -> dict[str, Any]:
        """What the packs depend on beside the examples, as a state keeps it."""
        source = self.source
        kind = type(source).__name__
        if is_mixture(source):
            kind = shorten(repr(source))
        elif is_map_style(source):
            kind = f"{len(source)} examples"
        return {
            "source": kind,
            "seed": self.seed,
            "shuffle": self.shuffle,
            "family": self.family.name if self.family else "",
            "packer": self.policy.make_packer().state()["fingerprint"],
        }

    def __getstate__(self) -> dict[str, Any]:
        # What runs in this process stays in it.
        if is_spawning():
            check_caller(sys._getframe(1))
        is_first = self._resume is None or self._board.begin_new_process()
        return {**self.__dict__, "_stream": None, "_resume": self._resume if is_first else None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # A copy has workers of its own.
        self.__dict__.update(state, _board=Board())

    def __repr__(self) -> str:
        kind, shard, virtual_shards = type(self.source).__name__, self.shard, self.virtual_shards
        return f"PackedDataset({kind}, budgets={self.budgets}, {shard=}, {virtual_shards=})"


TOO_LATE = (
    "a state was loaded, but the workers were started before that and live on "
    "(persistent_workers=True); make a new DataLoader after load_state_dict()"
)


def _refuse() -> Iterator[PackedBatch]:
    # With the first batch: an error of __iter__ itself would end the worker without a word.
    raise StateError(TOO_LATE)
    yield
