"""The steps of a training loop over several ranks: one agreement each, so that nobody waits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from treepack.batch import PackedBatch
from treepack.errors import DatasetError
from treepack.state import merge

__all__ = ["gather_state", "steps"]


class Agreement(NamedTuple):
    """What a rank has for a step; summed over the ranks, what all have."""

    weight: float
    packs: float
    is_full: float
    is_empty: float
    has_failed: float


def steps(
    loader: Iterable[PackedBatch], accumulate: int = 1, end: str = "stop", group: Any = None
) -> Iterator[tuple[list[PackedBatch], float]]:
    """The packs of each optimiser step, with the sum of their loss weights over all ranks.

    One all-reduce a step carries the weights and the agreement to go on, so all ranks make the
    same number of steps, none waits for another that has ended, and every weight counts the same
    whichever rank and micro-batch it is in. It works alone, and under DDP and FSDP, which average
    gradients over ranks: scale each loss sum by ``world / weight``.

    A step's packs count as consumed (see `PackedDataset.consumed`) when they are handed out, so a
    state saved in the loop's body, after the optimiser's step, goes on with the next step.

    Args:
        loader: of `PackedBatch`, such as ``DataLoader(dataset, batch_size=None)``.
        accumulate: micro-batches of a step.
        end: when ranks run out of packs: ``"stop"`` all at the last step that everybody fills, or
            ``"fill"`` the missing places with a repeated pack whose weights are 0, so that every
            example counts once. Fill needs at least one pack on each rank.
        group: process group of the data-parallel ranks, by default all; a gloo group spares the
            GPU a synchronisation.

    Yields:
        ``accumulate`` packs and the sum of ``loss_weights`` over the step, of all ranks.

    Raises:
        DatasetError: a step without any weight, a rank without any pack to fill with, or another
            rank's loader failed; every rank raises, and none hangs.

    Example:
        >>> import treepack as tp
        >>> source = [tp.MessageTree([1, 2, 3], labels=[-100, 2, 3], weight=0.5)] * 3
        >>> dataset = tp.PackedDataset(source, budgets={"tokens": 3})
        >>> [(len(packs), weight) for packs, weight in steps(dataset, accumulate=2, end="fill")]
        [(2, 2.0), (2, 1.0)]
    """
    if accumulate < 1 or end not in ("stop", "fill"):
        raise DatasetError(
            f"accumulate must be positive and end 'stop' or 'fill', got {accumulate} and {end!r}"
        )
    world = dist.get_world_size(group) if _is_distributed() else 1
    stream, filler = iter(loader), None
    while True:
        packs, failure = _take(stream, accumulate)
        filler = packs[-1] if packs else filler
        total = _agree(_offer(packs, accumulate, filler, failure), group)
        if failure is not None:
            raise failure
        _check_ranks(total, end)
        if total.packs == 0 or (end == "stop" and total.is_full < world):
            return
        _check_weight(total)
        _mark_consumed(loader, packs)
        # Without a filler on every rank the check has raised.
        packs += [_weightless(filler or {})] * (accumulate - len(packs))
        yield packs, total.weight


def gather_state(dataset: Any, group: Any = None) -> dict[str, Any]:
    """The state of all ranks, for one checkpoint that any number of ranks can load.

    Args:
        dataset: a `PackedDataset`, or anything else with ``state_dict()``.
        group: process group of the data-parallel ranks, by default all.

    Returns:
        ``treepack.state.merge`` of the states, on every rank.
    """
    state = dataset.state_dict()
    if not _is_distributed():
        return merge([state])
    states: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(states, state, group=group)
    return merge(states)


def _take(
    stream: Iterator[PackedBatch], accumulate: int
) -> tuple[list[PackedBatch], Exception | None]:
    """The next packs, or why there are none: the other ranks must hear of it first."""
    try:
        return list(islice(stream, accumulate)), None
    except Exception as error:
        return [], error


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


def _check_ranks(total: Agreement, end: str) -> None:
    if total.has_failed:
        raise DatasetError(
            f"the loaders of {total.has_failed:.0f} other ranks failed; their errors say why"
        )
    if total.packs and total.is_empty and end == "fill":
        raise DatasetError(
            f"{total.is_empty:.0f} ranks have no pack at all and cannot fill a step; use fewer "
            "ranks, more data or end='stop'"
        )


def _check_weight(total: Agreement) -> None:
    if not total.weight > 0:
        raise DatasetError(
            f"the loss weights of a step sum to {total.weight}, over {total.packs:.0f} packs; "
            "nothing in them is trained on, so check labels and weights"
        )


def _mark_consumed(loader: Any, packs: list[PackedBatch]) -> None:
    consumed = getattr(getattr(loader, "dataset", loader), "consumed", None)
    for pack in packs:
        if consumed is not None and pack["treepack"].state is not None:
            consumed(pack)


def _weightless(pack: Mapping[str, Any]) -> PackedBatch:
    """The same pack without weight; its pixels stay, so that ranks make the same collectives."""
    return PackedBatch({**pack, "loss_weights": torch.zeros_like(pack["loss_weights"])})


def _is_distributed() -> bool:
    return bool(dist.is_available() and dist.is_initialized())
