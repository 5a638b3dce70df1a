"""The steps of a training loop over several ranks: one agreement each, so that no rank waits.

Public names:

    steps         the packs of each optimiser step, with the sum of their loss weights
    gather_state  the state of all ranks, for one checkpoint
    Statistics    fill, waits and throughput of a training, for a logger
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple, get_args

from treepack._packages import needing

with needing("torch", __name__):
    import torch
    import torch.distributed as dist

from treepack.batch import PackedBatch
from treepack.batch.statistics import Statistics
from treepack.dataset._dealing import check_step
from treepack.dataset._settings import Settings
from treepack.dataset.sharding import Introduction, check_introductions
from treepack.dataset.state import merge
from treepack.errors import DatasetError, StateError
from treepack.options import EndOfData

__all__ = ["Statistics", "gather_state", "steps"]


def __dir__() -> list[str]:
    return sorted(__all__)


PATIENCE = 1_000
"""Steps in succession without weight after which the data must be wrong."""


class _Weights:
    """Counts the steps without weight: a few are skipped, too many are a mistake in the data."""

    def __init__(self) -> None:
        self._has_any = False
        # Steps without weight since the last one that had some.
        self._weightless = 0

    def add(self, weight: float) -> bool:
        """Count a step; returns whether there is anything to learn from it.

        Raises:
            DatasetError: too many steps in succession had no weight.
        """
        if weight > 0:
            self._has_any, self._weightless = True, 0
            return True
        self._weightless += 1
        if self._weightless >= PATIENCE:
            self._fail()
        return False

    def check_end(self) -> None:
        """Reject data of which no step had any weight.

        Raises:
            DatasetError: there were steps, and none had.
        """
        if self._weightless and not self._has_any:
            self._fail()

    def _fail(self) -> None:
        raise DatasetError(
            f"the loss weights of {self._weightless} steps in succession sum to 0; nothing in "
            "them is trained on, so check labels and weights"
        )


class Agreement(NamedTuple):
    """What a rank has for a step; summed over the ranks, what all have."""

    weight: float
    packs: float
    is_full: float
    is_empty: float
    has_failed: float


def steps(
    loader: Iterable[PackedBatch], accumulate: int = 1, end: EndOfData = "stop", group: Any = None
) -> Iterator[tuple[list[PackedBatch], float]]:
    """The packs of each optimiser step, with the sum of their loss weights over all ranks.

    One all-reduce a step carries the weights and the agreement to go on. So all ranks make the same
    number of steps, no rank waits for one that has ended, and every weight counts the same,
    whichever rank and micro-batch it is in. It works in one process, and under DDP and FSDP, which
    average gradients over ranks: divide each pack's sum of losses by ``weight / world``.

    A step's packs count as consumed (see `PackedDataset.consumed`) when they are handed out, so a
    state saved in the loop's body, after the optimiser's step, goes on with the next step.

    Args:
        loader: of `PackedBatch`, such as ``DataLoader(dataset, batch_size=None)``.
        accumulate: packs of each rank in a step, that is, its micro-batches.
        end: what happens when the first rank runs out of packs. ``"stop"``: all end after the last
            step that every rank can fill, and the packs that are left over are not trained on.
            ``"fill"``: missing places get a repeated pack whose weights are 0, so that every
            example counts once, at the price of its forward and backward; a rank without any pack
            gets one from another.
        group: process group of the data-parallel ranks, by default all. A gloo group spares the
            GPU a synchronisation.

    Yields:
        ``accumulate`` packs of this rank, and the sum of ``loss_weights`` over the whole step, of
        all ranks. A step whose weights sum to 0 is skipped, since nothing in it is trained on.

    Raises:
        DatasetError: a wrong argument; ranks whose shards or settings do not fit together; no step
            has any weight, or a thousand in succession have none; or the loader of another rank
            failed. An error on one rank ends all, so that none waits for ever.

    Source:
        One divisor for all ranks and micro-batches: ``num_items_in_batch`` of transformers'
        ``Trainer``, here with weights in place of tokens.

    Example:
        >>> import treepack as tp
        >>> source = [tp.MessageTree([1, 2, 3], labels=[-100, 2, 3], weight=0.5)] * 3
        >>> dataset = tp.PackedDataset(source, budgets={"tokens": 3})
        >>> [(len(packs), weight) for packs, weight in steps(dataset, accumulate=2, end="fill")]
        [(2, 2.0), (2, 1.0)]
    """
    for step in agreed_steps(loader, accumulate, end, group):
        mark_consumed(loader, step.taken)
        if step.weight > 0:
            yield step.packs, step.weight


class Step(NamedTuple):
    """One optimiser step of a rank.

    Attributes:
        packs: what to train on.
        weight: the sum of their loss weights over all ranks; 0 of a step to skip.
        taken: packs of this rank that count as consumed with this step; repeated ones do not.
    """

    packs: list[PackedBatch]
    weight: float
    taken: list[PackedBatch]


def agreed_steps(
    loader: Iterable[PackedBatch], accumulate: int, end: EndOfData, group: Any
) -> Iterator[Step]:
    """The steps of `steps`, those without weight too; `mark_consumed` is left to the caller.

    Args:
        loader: as for `steps`; so the others.
        accumulate: packs of each rank.
        end: ``"stop"`` or ``"fill"``.
        group: process group.

    Raises:
        DatasetError: as `steps` does.
    """
    if not isinstance(accumulate, int) or accumulate < 1 or end not in get_args(EndOfData):
        raise DatasetError(
            "accumulate must be a positive integer, and end 'stop' or 'fill'; got "
            f"{accumulate=} and {end=}"
        )
    world = dist.get_world_size(group) if _is_distributed() else 1
    check_step(getattr(_dataset_of(loader), "settings", None), accumulate)
    _meet(_dataset_of(loader), group)
    stream, filler = None, None
    weights = _Weights()
    while True:
        stream, packs, failure = _take(loader, stream, accumulate)
        filler = packs[-1] if packs else filler
        total = _agree(_offer(packs, accumulate, filler, failure), group)
        if failure is not None:
            raise failure
        _check_ranks(total)
        if total.packs == 0 or (end == "stop" and total.is_full < world):
            weights.check_end()
            return
        if total.is_empty:
            filler = _share(filler, group)
        taken = list(packs)
        if weights.add(total.weight):
            packs += [_weightless(pack) for pack in [filler] * (accumulate - len(packs)) if pack]
        yield Step(packs, total.weight, taken)


def gather_state(dataset: Any, group: Any = None) -> dict[str, Any]:
    """The state of all ranks, for one checkpoint that any number of ranks can load.

    Every rank of the group has to call it, after the same step.

    Args:
        dataset: the `PackedDataset` of this rank.
        group: process group of the data-parallel ranks, by default all.

    Returns:
        ``treepack.state.merge`` of the states, the same on every rank; JSON-safe.

    Raises:
        DatasetError: ranks whose shards or settings do not fit together.
        StateError: a rank cannot give its state, or the states are not of one stream. All ranks
            raise, so that none waits for ever.

    Example:
        >>> import treepack as tp
        >>> source = [tp.MessageTree([1, 2, 3], labels=[-100, 2, 3])] * 3
        >>> dataset = tp.PackedDataset(source, budgets={"tokens": 3}, shuffle=False)
        >>> for step, (packs, weight) in enumerate(steps(dataset)):
        ...     if step == 1:
        ...         saved = gather_state(dataset)
        >>> dataset.load_state_dict(saved)
        >>> [batch["treepack"].keys for batch in dataset]
        [[2]]
    """
    if not _is_distributed():
        return merge([dataset.state_dict()])
    _meet(dataset, group)
    state, failure = None, None
    try:
        state = dataset.state_dict()
    except Exception as error:
        failure = error
    states: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(states, state, group=group)
    if failure is not None:
        raise failure
    missing = [rank for rank, state in enumerate(states) if state is None]
    if missing:
        raise StateError(f"ranks {missing} could not give their state; their errors say why")
    return merge(states)


def _meet(dataset: Any, group: Any) -> None:
    """Compare shards and settings with the other ranks, before the first step."""
    if not _is_distributed():
        return
    settings = getattr(dataset, "settings", None)
    told = settings.introduce() if isinstance(settings, Settings) else Introduction(None)
    ranks: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(ranks, told, group=group)
    check_introductions(ranks)


def _dataset_of(loader: Any) -> Any:
    return getattr(loader, "dataset", loader)


def _take(
    loader: Any, stream: Iterator[PackedBatch] | None, accumulate: int
) -> tuple[Iterator[PackedBatch] | None, list[PackedBatch], Exception | None]:
    """The next packs, or why there are none: the other ranks must hear of it first."""
    try:
        stream = _begin(loader) if stream is None else stream
        return stream, list(islice(stream, accumulate)), None
    except Exception as error:
        return stream, [], error


def _begin(loader: Any) -> Iterator[PackedBatch]:
    """Iterate, and count what is consumed from there; loaders fetch ahead."""
    dataset = _dataset_of(loader)
    counts = hasattr(dataset, "count_from") and dataset.why_not_resumable is None
    start = dataset.next_start() if counts else None
    stream: Iterator[PackedBatch] = iter(loader)
    if counts:
        dataset.count_from(start)
    return stream


def _share(filler: PackedBatch | None, group: Any) -> PackedBatch | None:
    """A pack for the ranks that have none, from the first that has one."""
    has: list[bool] = [False] * dist.get_world_size(group)
    dist.all_gather_object(has, filler is not None, group=group)
    source = has.index(True)
    giver = source if group is None else dist.get_global_rank(group, source)
    offered = [filler]
    dist.broadcast_object_list(offered, src=giver, group=group)
    return filler if filler is not None else offered[0]


def _offer(
    packs: list[PackedBatch], accumulate: int, filler: Any, failure: Exception | None
) -> Agreement:
    weight = sum(float(pack["loss_weights"].sum(dtype=torch.float64)) for pack in packs)
    full, empty = len(packs) == accumulate, filler is None
    return Agreement(weight, len(packs), full, empty, failure is not None)


def _agree(offer: Agreement, group: Any) -> Agreement:
    if not _is_distributed():
        return offer
    backend = dist.get_backend(group)
    device = "cuda" if "nccl" in backend and "gloo" not in backend else "cpu"
    total = torch.tensor(offer, dtype=torch.float64, device=device)
    dist.all_reduce(total, group=group)
    return Agreement(*total.tolist())


def _check_ranks(total: Agreement) -> None:
    if total.has_failed:
        raise DatasetError(
            f"the loaders of {total.has_failed:.0f} other ranks failed; their errors say why"
        )


def mark_consumed(loader: Any, packs: list[PackedBatch]) -> None:
    """Tell the dataset of a loader, if it keeps count, that packs have been consumed."""
    consumed = getattr(_dataset_of(loader), "consumed", None)
    for pack in packs:
        if consumed is not None and pack["treepack"].state is not None:
            consumed(pack)


def _weightless(pack: Mapping[str, Any]) -> PackedBatch:
    """The same pack without weight; its pixels stay, so that ranks make the same collectives."""
    return PackedBatch({**pack, "loss_weights": torch.zeros_like(pack["loss_weights"])})


def _is_distributed() -> bool:
    return bool(dist.is_available() and dist.is_initialized())
