"""A stream of packed rows for ``DataLoader(dataset, batch_size=None)``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from torch.utils.data import IterableDataset, get_worker_info

from treepack.batch import PackedBatch, collate
from treepack.errors import BudgetError, DatasetError
from treepack.shards import VirtualShard
from treepack.sources import Reader, check_source, make_feeds

if TYPE_CHECKING:
    from treepack.hf.families import Family
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
        processor: Hugging Face processor of the model; it selects the model family.
        family: name of the family, where the processor's class does not say it.
        chat: how turns are written, a ``treepack.chat.ChatFormat``; by default the family's.
        pool_size: examples that a shard holds while it looks for a good pack.
        virtual_shards: ``V``; a multiple of ranks times workers. By default exactly that, which
            gives the best fill and the least memory; set it to change ranks or workers later.
        shard: ``(rank, world_size)`` of the data-parallel group; by default that of
            ``torch.distributed`` when the dataset is built, else ``(0, 1)``.
        seed: of the order; ``shuffle=False`` keeps the source's own.
        shuffle: whether a map-style source is shuffled, anew in each epoch.
        epochs: passes over a map-style source; ``None`` never ends. Pools are flushed at the end of
            the last one only.
        oversize: an example over a budget: ``"raise"``, ``"drop"`` and count it, or ``"alone"`` in
            a row of its own.
        on_error: an example that cannot be read, measured or loaded: ``"raise"``, after which
            the stream can go on without it, or ``"skip"`` and count it.
        pad_to_budget: pad every row to the token budget, for static shapes.
        transform: applied to each loaded tree, for instance `treepack.hf.molmo2_weights`.
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
        processor: Any = None,
        family: str | None = None,
        chat: Any = None,
        pool_size: int = 48,
        virtual_shards: int | None = None,
        shard: tuple[int, int] | None = None,
        seed: int = 0,
        shuffle: bool = True,
        epochs: int | None = 1,
        oversize: str = "raise",
        on_error: str = "raise",
        pad_to_budget: bool = False,
        transform: Callable[[MessageTree], MessageTree] | None = None,
        packer: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_source(source)
        self.source = source
        self.budgets = dict(budgets)
        self.family = _find_family(processor, family, chat, self.budgets)
        self.shard = _check_shard(_default_shard() if shard is None else shard)
        self.virtual_shards = _positive("virtual_shards", virtual_shards)
        self.seed = _seed(seed)
        self.shuffle = shuffle
        self.epochs = _positive("epochs", epochs)
        self.on_error = _one_of("on_error", on_error, ("raise", "skip"))
        self.pad_to_budget = pad_to_budget
        if pad_to_budget and "tokens" not in self.budgets:
            raise BudgetError(f"pad_to_budget needs a budget 'tokens'; there are {list(budgets)}")
        self.transform = transform
        self.packer_options = {"pool_size": pool_size, "oversize": oversize, **(packer or {})}
        VirtualShard.check(self.budgets, self.packer_options)

    def __iter__(self) -> Iterator[PackedBatch]:
        return PackStream(self)

    def owned_shards(self, worker: int, workers: int) -> tuple[list[int], int]:
        """The virtual shards of one worker of this rank, and how many there are in all.

        Raises:
            DatasetError: ranks times workers does not divide ``virtual_shards``.
        """
        rank, world = self.shard
        owners = world * max(1, workers)
        total = self.virtual_shards or owners
        if total % owners:
            fits = [n for n in range(1, total + 1) if total % (world * n) == 0]
            raise DatasetError(
                f"{world} ranks x {max(1, workers)} workers = {owners} does not divide "
                f"virtual_shards={total}; use num_workers from {fits} or another virtual_shards"
            )
        owner = rank + world * worker
        return [s for s in range(total) if s % owners == owner], total


class PackStream:
    """The packs of the virtual shards of one worker, in turns.

    An error leaves the stream usable: the next call goes on without the example that failed.
    """

    def __init__(self, dataset: PackedDataset) -> None:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        owned, total = dataset.owned_shards(worker, workers)
        self.dataset = dataset
        reader = Reader(dataset.source, dataset.family, tuple(dataset.budgets), dataset.transform)
        feeds = make_feeds(
            dataset.source, owned, total, dataset.seed, dataset.shuffle, dataset.epochs
        )
        self._live = [
            VirtualShard(
                shard,
                feeds[shard],
                reader,
                dataset.budgets,
                dataset.packer_options,
                dataset.on_error,
            )
            for shard in owned
        ]
        self._turn = 0

    def __iter__(self) -> PackStream:
        return self

    def __next__(self) -> PackedBatch:
        while self._live:
            self._turn %= len(self._live)
            shard = self._live[self._turn]
            trees = shard.next_pack()
            if trees is None:
                del self._live[self._turn]
                continue
            self._turn += 1
            return self._collate(trees, shard)
        raise StopIteration

    def _collate(self, trees: list[MessageTree], shard: VirtualShard) -> PackedBatch:
        budget = self.dataset.budgets.get("tokens", 0) if self.dataset.pad_to_budget else 0
        used = sum(tree.n_tokens for tree in trees)
        batch = collate(
            trees,
            family=self.dataset.family,
            total=max(budget, used),
            budgets=self.dataset.budgets,
        )
        batch["treepack"].stats.update(shard.stats())
        return batch


def _default_shard() -> tuple[int, int]:
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def _check_shard(shard: tuple[int, int]) -> tuple[int, int]:
    rank, world = shard
    if not 0 <= rank < world:
        raise DatasetError(f"shard=(rank, world) must have 0 <= rank < world, got {shard}")
    return int(rank), int(world)


def _find_family(
    processor: Any, family: str | None, chat: Any, budgets: Mapping[str, int]
) -> Family | None:
    if processor is None:
        if family is not None:
            raise DatasetError(f"family={family!r} needs a processor; pass processor=")
        return None
    from treepack.hf.families import find

    found = find(processor, family, chat=chat)
    unknown = [name for name in budgets if name not in found.costs]
    if unknown:
        raise BudgetError(
            f"budgets {unknown} are not measured by family {found.name!r}, which measures "
            f"{list(found.costs)}; rename them, or pass a source that yields MessageTree"
        )
    return found


def _positive(name: str, value: int | None) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or int(value) != value or value < 1:
        raise DatasetError(f"{name} must be a positive integer or None, got {value!r}")
    return int(value)


def _seed(value: int) -> int:
    if not 0 <= value < 1 << 64:
        raise DatasetError(f"seed must be in [0, 2**64), got {value}")
    return int(value)


def _one_of(name: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise DatasetError(f"{name} must be one of {list(known)}, got {value!r}")
    return value
