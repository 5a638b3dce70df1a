"""A stream of packed rows for ``DataLoader(dataset, batch_size=None)``."""

from __future__ import annotations

import copy
import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch.utils.data import IterableDataset

from treepack.batch import PackedBatch
from treepack.dataset._dealing import check_balance, check_packs
from treepack.dataset._reshaping import check_oversize, check_truncation
from treepack.dataset._settings import (
    Policy,
    Settings,
    check_budgets,
    check_epoch,
    check_fill,
    check_seed,
    check_table,
    check_windows,
    find_family,
    is_one_of,
    packed_budgets,
    packer_settings,
    positive,
)
from treepack.dataset._torch_internals import is_spawning
from treepack.dataset._workers import check_caller
from treepack.dataset.progress import Progress
from treepack.dataset.resumable import Resumable
from treepack.dataset.sharding import check_shard
from treepack.errors import DatasetError
from treepack.options import Bidirectional, MediumKind, OnCostMismatch, OnError, OversizeOrSplit
from treepack.sources.protocol import check_source, find_start, is_map_style

if TYPE_CHECKING:
    from treepack.families import Family
    from treepack.packing.balance import Balance
    from treepack.packing.packs import Packs
    from treepack.sources.costs import CostTable
    from treepack.tree import MessageTree


class PackedDataset(Resumable, IterableDataset[PackedBatch]):  # type: ignore[misc]
    """Packs a source of examples into rows that fill every budget.

    The stream is cut into ``V`` virtual shards: position ``p`` of the seeded order belongs to shard
    ``p mod V``, and each shard packs with a pool of its own. Rank ``r`` of ``R`` and worker ``w``
    of ``W`` own the shards ``s`` with ``s mod (R W) = r + R w`` and go over them round-robin. So
    pack ``n`` comes from shard ``n mod V`` until the first shard ends, and the packs do not depend
    on how many ranks and workers share the work.

    Args:
        source: read by index, with ``__len__`` and ``__getitem__``, or an iterable. It yields
            `MessageTree`, or, with a processor, `Conversations` or records. What else it may offer,
            such as ``measure(i)``, is written down in ``treepack.sources.protocol``.
        budgets: capacity of a row by name, each in a unit of its own, such as
            ``{"tokens": 16_384, "crops": 128}``; by default those of ``packs``.
        packs: packs made before, by `treepack.pack`; their rows come in the seeded order, anew in
            each epoch, or with ``shuffle=False`` in their own. Nothing waits in a pool,
            ``pool_size`` and ``packer`` have no effect, and ``len(dataset)`` is known.
        balance: a `treepack.Balance`, so that ranks finish each step together: it deals packs by
            what they take, which ``costs`` or ``measure`` have to say. Every process then packs for
            all ranks, 50 us for each pack, and loads its own; ``virtual_shards`` is 1 by default,
            and a pack of which no example can be loaded is a row without weight.
        costs: costs known in advance, from ``treepack.costs``: the source then needs no
            ``measure``, and its examples are loaded when they have been selected.
        processor: Hugging Face processor of the model; it selects the model family.
        family: name of the family, where the processor's class does not say it; or a
            ``treepack.families.Family``, which then needs no processor.
        chat: how turns are written, a ``treepack.families.ChatFormat``; by default the family's.
        pool_size: examples that a shard holds while it looks for a good pack. A larger pool may
            fill rows better; the price is memory (unless costs are known before loading), a longer
            wait (``pool_size - 1`` packs at most) and search: with two budgets, a pack takes 9, 34
            and 273 us from pools of 48, 512 and 4,096.
        virtual_shards: ``V``, a multiple of ranks times workers. By default exactly that; set it to
            change ranks or workers later. The price is a pool for each: on 20,000 examples of a
            fine-tuning mixture, V = 1, 8 and 24 use 1.020, 1.020 and 1.023 times the fewest
            possible rows, and hold 47, 359 and 1,083 examples in pools.
        shard: ``(rank, world_size)`` of the data-parallel group, or its ``DeviceMesh`` such as
            ``mesh["dp"]``. By default found when it is needed, so that a dataset may be built
            before the ranks exist: that of ``torch.distributed``, else what ``RANK`` and
            ``WORLD_SIZE`` say, else ``(0, 1)``.
        seed: of the order, an integer in ``[0, 2**64)``.
        shuffle: whether a map-style source is shuffled, anew in each epoch; an iterable keeps its
            order.
        epochs: over a map-style source; ``None`` never ends. Pools are flushed at the end of the
            last one only. Iterating a second time gives the same packs again: for several epochs,
            read one stream of several.
        oversize: what becomes of an example over a budget: ``"raise"``; ``"drop"``, and count it;
            ``"alone"``, in a row of its own, which then exceeds the budget; or ``"split"``: several
            trees with the same root and key, each within every budget, share its branches by
            first-fit, in order, each branch once, and ``stats["split"]`` counts it. Branches with
            roles stay together, such as chosen and rejected; what the root is trained on is so in
            the first part. The price is that the root, its media too, is computed in each part.
            Where the root is too large by itself or with one of the branches, it is an error;
            ``("split", "drop")`` and ``("split", "alone")`` say otherwise.
        max_branch_tokens: longer branches are cut to so many tokens, and plain text is, as a whole;
            media are never. A branch that is cut loses its end target, ``stats["truncated"]``
            counts it, and there is a line in the log at 1, 2, 4, 8, ... of them. Not with costs
            known in advance. Applied before ``transform``.
        on_error: what becomes of an example that cannot be read, measured or loaded: ``"raise"``,
            after which the stream can go on without it; or ``"skip"``, and count it. The price of
            skipping is that broken data shows only in ``stats["skipped"]`` and in the log, of which
            there is a line at 1, 2, 4, 8, ... skipped. Where the examples of a row cannot be
            joined, all of that row fail.
        on_cost_mismatch: what becomes of an example whose cost is not what ``measure`` said:
            ``"raise"``, an error like any other; or ``"requeue"``, with its real cost, which it
            waits for again. No budget is exceeded either way.
        pad_to_budget: whether every row is padded to the token budget, for static shapes. The price
            is that the padding goes through every layer but attention and the head.
        bidirectional: which image tokens see later ones, as `treepack.collate` names it; by
            default the family's, else ``"none"``.
        sliding_windows: of the model's attention layers, in tokens, from
            ``treepack.hf.sliding_windows(model)``. Each costs one more plan of every row, made here
            in the worker; a compiled model needs them.
        vision_on_every_row: ``True``, or kinds of media: rows without media run the vision tower
            too, as FSDP and DDP need, on the smallest medium, in padding that every row keeps free.
            ``False``: they do not. By default, among several ranks, such a row is an error.
        transform: applied to each loaded tree, for instance `treepack.hf.molmo2_weights`. Costs
            are those of what it returns.
        packer: further settings for `Packer`, such as ``{"early": True}``.

    Raises:
        BudgetError: a budget or packer setting out of range, or a budget that the model family does
            not measure.
        DatasetError: a source or another setting that cannot work; the message says what to change.
        FamilyError: no model family supports the processor.

    Source:
        Packing on the fly from a pool of 48: Molmo2, arXiv 2601.10611; the algorithm is another,
        that of `Packer`. ``state_dict`` and ``load_state_dict`` are the protocol of torchdata's
        ``StatefulDataLoader``.

    Example:
        >>> import treepack as tp
        >>> source = [tp.MessageTree([1] * n) for n in (3, 4, 2, 1, 5)]
        >>> dataset = tp.PackedDataset(source, budgets={"tokens": 8}, pool_size=3, shuffle=False)
        >>> [batch["treepack"].keys for batch in dataset]
        [[0, 1], [2, 3, 4]]
    """

    settings: Settings

    def __init__(
        self,
        source: Any,
        *,
        budgets: Mapping[str, int] | None = None,
        packs: Packs | None = None,
        balance: Balance | None = None,
        costs: CostTable | None = None,
        processor: Any = None,
        family: str | Family | None = None,
        chat: Any = None,
        pool_size: int = 48,
        virtual_shards: int | None = None,
        shard: tuple[int, int] | Any = None,
        seed: int = 0,
        shuffle: bool = True,
        epochs: int | None = 1,
        oversize: OversizeOrSplit = "raise",
        max_branch_tokens: int | None = None,
        on_error: OnError = "raise",
        on_cost_mismatch: OnCostMismatch = "raise",
        pad_to_budget: bool = False,
        bidirectional: Bidirectional | None = None,
        sliding_windows: Sequence[int] = (),
        vision_on_every_row: bool | MediumKind | Sequence[MediumKind] | None = None,
        transform: Callable[[MessageTree], MessageTree] | None = None,
        packer: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_source(source)
        splits, rest = check_oversize(oversize, packs)
        requeues = is_one_of("on_cost_mismatch", on_cost_mismatch, "requeue")
        given = check_packs(packs, source, requeues)
        budgets = check_budgets(budgets, given)
        found = find_family(processor, family, chat, budgets)
        if costs is not None:
            source = check_table(costs, found).attach(source)
        check_balance(balance, source, budgets, requeues, splits, transform)
        if balance is not None:
            # All shards are in every process, so that nobody owns one; packs need none.
            virtual_shards = (None if given else virtual_shards) or 1
        most = check_truncation(max_branch_tokens, source, found, packs)
        fill = check_fill(vision_on_every_row, found)
        why_not_resumable, source_start = find_start(source)
        self.settings = Settings(
            source=source,
            budgets=budgets,
            policy=Policy(
                packed_budgets(budgets, found, fill),
                packer_settings(pool_size, rest, packer),
                skips=is_one_of("on_error", on_error, "skip"),
                requeues=requeues,
                splits=splits,
                truncates=most is not None,
            ),
            family=found,
            shard=None if shard is None else check_shard(shard),
            virtual_shards=positive("virtual_shards", virtual_shards),
            seed=check_seed(seed),
            shuffle=bool(shuffle),
            epochs=positive("epochs", epochs),
            pad_to_budget=pad_to_budget,
            bidirectional=bidirectional,
            sliding_windows=check_windows(sliding_windows),
            vision_on_every_row=fill,
            transform=transform,
            why_not_resumable=why_not_resumable,
            source_start=source_start,
            packs=given,
            balance=balance,
            max_branch_tokens=most,
        )
        self._progress = Progress(self.settings)

    @property
    def source(self) -> Any:
        """Where examples come from, with the costs that were given."""
        return self.settings.source

    @property
    def budgets(self) -> Mapping[str, int]:
        """Capacities of a row, by name."""
        return self.settings.budgets

    @property
    def family(self) -> Family | None:
        """The model family, or ``None`` if the source yields `MessageTree`."""
        return self.settings.family

    @property
    def shard(self) -> tuple[int, int]:
        """Rank and size of the data-parallel group, as they are now.

        Raises:
            DatasetError: ``WORLD_SIZE`` is set without ``RANK``, or the reverse.
        """
        return self.settings.find_shard()

    @property
    def virtual_shards(self) -> int | None:
        """``V``, or ``None`` for ranks times workers."""
        return self.settings.virtual_shards

    def set_epoch(self, epoch: int) -> None:
        """Draw orders from an epoch on, in the next iterations; samplers of torch have the same.

        A dataset of ``epochs=1`` gives the same rows in each iteration; after this it gives those
        of another epoch. Call it before the loader is iterated. A state that is saved then is
        loaded by a dataset of the same epoch.

        Args:
            epoch: its number; the first is 0.

        Raises:
            DatasetError: the source is not read by index, and has an order of its own; or a number
                that is none.

        Example:
            >>> import treepack as tp
            >>> source = [tp.MessageTree([1] * n) for n in (3, 4, 2, 1, 5)]
            >>> dataset = tp.PackedDataset(source, budgets={"tokens": 8})
            >>> first = [batch["treepack"].keys for batch in dataset]
            >>> dataset.set_epoch(1)
            >>> first == [batch["treepack"].keys for batch in dataset]
            False
        """
        if not is_map_style(self.source):
            raise DatasetError(
                f"{type(self.source).__name__} is not read by index, so its order is its own; tell "
                "the source itself of epochs"
            )
        changed = dataclasses.replace(self.settings, epoch=check_epoch(epoch))
        if changed.epoch != self.settings.epoch:
            self.settings, self._progress = changed, Progress(changed)

    def __len__(self) -> int:
        if self.settings.packs is None or self.settings.epochs is None:
            raise TypeError(
                "how many rows there will be is not known while packing on the fly, and is without "
                "end with epochs=None; pack first, with treepack.pack, and pass packs="
            )
        rank, world = self.shard
        return len(range(rank, len(self.settings.packs) * self.settings.epochs, world))

    def __bool__(self) -> bool:
        # Python would ask for the length.
        return True

    def __iter__(self) -> Iterator[PackedBatch]:
        check_caller(sys._getframe(1))
        return self._progress.begin()

    def fingerprint(self) -> dict[str, Any]:
        """What the packs depend on beside the examples, as a state keeps it.

        Returns:
            A JSON-safe dict: ``source`` (its length, or its kind), ``seed``, ``shuffle``,
            ``family`` and ``packer`` (budgets and settings). A state of another one is rejected.
        """
        return self.settings.fingerprint()

    def at_start(self, **changes: Any) -> PackedDataset:
        """A copy that begins at the start of the stream, with some settings changed.

        Args:
            changes: fields of ``dataset.settings``, such as ``shard=(1, 2)``. Their values are not
                checked.

        Returns:
            A dataset of the same source, which is shared. This one keeps its place.

        Raises:
            TypeError: a setting that does not exist.

        Example:
            >>> import treepack as tp
            >>> source = [tp.MessageTree([1] * n) for n in (3, 4, 2)]
            >>> dataset = tp.PackedDataset(source, budgets={"tokens": 8}, virtual_shards=2)
            >>> dataset.at_start(shard=(1, 2)).shard, dataset.shard
            ((1, 2), (0, 1))
        """
        other = copy.copy(self)
        other.settings = dataclasses.replace(self.settings, **changes)
        other._progress = Progress(other.settings)
        return other

    def __getstate__(self) -> dict[str, Any]:
        if is_spawning():
            check_caller(sys._getframe(1))
        settings = self.settings.sent() if is_spawning() else self.settings
        progress = self._progress.copy(settings)
        return {**self.__dict__, "settings": settings, "_progress": progress}

    def __repr__(self) -> str:
        kind, virtual_shards = type(self.source).__name__, self.virtual_shards
        shard = self.settings.shard
        return f"PackedDataset({kind}, budgets={self.budgets}, {shard=}, {virtual_shards=})"
