"""Checks of your data, your model and this machine.

Public names:

    check_exactly_once                 every example comes out once, or is counted
    check_resume_everywhere            stopping anywhere and resuming changes nothing
    check_same_packs_for_any_topology  packs do not depend on ranks and workers
    check_exact                        each path of a row gets what it gets alone
    doctor                             attention backends, compiler and speed of this machine
    assert_batches_equal               two batches agree, bit by bit

Those of a stream take a `PackedDataset`, read it as a training job would, and raise
``AssertionError`` with what they saw. The dataset itself is left as it is: they work on copies.

    >>> import treepack as tp
    >>> source = [tp.MessageTree([1] * n) for n in (3, 4, 2, 1, 5, 2, 2)]
    >>> dataset = tp.PackedDataset(source, budgets={"tokens": 8}, pool_size=3, virtual_shards=2)
    >>> check_exactly_once(dataset)
    >>> check_resume_everywhere(dataset)
    5
    >>> check_same_packs_for_any_topology(dataset, [(1, 0), (2, 0)])
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np

from treepack._packages import needing

with needing("torch", __name__):
    import torch
    from torch.utils.data import DataLoader

from treepack._lazy import lazy_names
from treepack.batch import PackedBatch, PackedRow
from treepack.dataset import PackedDataset
from treepack.dataset.state import last_shard, shards_of
from treepack.errors import DatasetError
from treepack.sources.protocol import is_map_style

if TYPE_CHECKING:
    from treepack.check.doctor import doctor
    from treepack.check.exact import check_exact

__all__ = [
    "assert_batches_equal",
    "check_exact",
    "check_exactly_once",
    "check_resume_everywhere",
    "check_same_packs_for_any_topology",
    "doctor",
]

if not TYPE_CHECKING:
    # It needs a model, and lies to the right of what this module may import.
    __getattr__, __dir__ = lazy_names(
        __name__,
        {"check_exact": "treepack.check.exact[hf]", "doctor": "treepack.check.doctor[torch]"},
    )


def check_exactly_once(
    dataset: PackedDataset, keys: Iterable[Any] | None = None, num_workers: int = 0
) -> None:
    """Check that every example of a finite stream comes out once per epoch, or is counted.

    Args:
        dataset: of a finite source; it is not modified.
        keys: of all examples that can be packed. By default examples are counted, and which ones
            they are is not compared; an iterable, whose length is not known, is then checked for
            budgets alone.
        num_workers: processes of the loader, 0 for none.

    Raises:
        AssertionError: an example was lost, came twice or is unknown, or a row breaks a budget.

    Example:
        >>> import treepack as tp
        >>> source = [tp.MessageTree([1] * n) for n in (3, 4, 2, 1, 5)]
        >>> dataset = tp.PackedDataset(source, budgets={"tokens": 8})
        >>> check_exactly_once(dataset, keys=range(5))
    """
    seen: Counter[Any] = Counter()
    counted: dict[int, int] = {}
    packs = dataset.settings.packs
    # Parts of trees that were split, less these trees.
    more: dict[int, int] = {}
    given: Counter[int] = Counter()
    reader = _copy(dataset)
    is_dealt = dataset.settings.balance is not None
    failed = 0
    for batch in _batches(reader, num_workers):
        row = batch["treepack"]
        seen.update(row.keys)
        _check_budgets(row, dataset.budgets)
        if is_dealt:
            # Its state is that of the window's start, and its numbers those of the end.
            failed += int(row.stats["lost"])
            counted = {-1: failed, 0: int(row.stats.get("skipped", 0) + row.stats["dropped"])}
            more = {0: int(row.stats.get("parts", 0) - row.stats.get("split", 0))}
            continue
        counted.update(_counted(row.state))
        more.update(_more_parts(row.state))
        if row.state and is_map_style(dataset.source):
            given[last_shard(row.state)] += len(row.keys)
            _check_none_lost(row.state, given)
    if not num_workers and dataset.why_not_resumable is None and not is_dealt:
        counted.update(_counted(reader.state_dict()))
        more.update(_more_parts(reader.state_dict()))
    epochs = (dataset.settings.epochs or 1) if is_map_style(dataset.source) else 1
    if packs is not None:
        more[-1] = epochs * packs.more_parts
    if keys is not None:
        wanted = Counter({key: epochs * n for key, n in Counter(keys).items()})
        lost, extra = wanted - seen, seen - wanted
        assert not lost, f"{lost.total()} examples were lost, such as {_some(lost)}"
        # All parts of a tree have its key; without a state they are not told from repeats.
        known = dataset.why_not_resumable is None or not dataset.settings.policy.splits
        most = sum(more.values()) if known else extra.total()
        assert extra.total() <= most, (
            f"{extra.total()} examples came too often, such as {_some(extra)}"
        )
        assert wanted.keys() >= extra.keys(), f"unknown examples, such as {_some(extra - wanted)}"
    elif is_map_style(dataset.source):
        each = len(dataset.source) if packs is None else len(packs.members) - packs.more_parts
        out, n = seen.total() + sum(counted.values()), epochs * each + sum(more.values())
        # What was counted after the last batch stays in the workers.
        skips = dataset.settings.policy.skips or any(counted.values())
        late = num_workers and out < n and skips
        assert late or out == n, (
            f"{n} examples went in; {seen.total()} came out, {out} with those counted"
        )


def _check_none_lost(state: Mapping[str, Any], given: Counter[int]) -> None:
    """What a virtual shard has read came out, was counted or waits: at each batch, not at the end.

    So a lost pack cannot pass for examples that were skipped after the last batch of a worker.
    """
    shard = shards_of(state)[last_shard(state)]
    if "packs" in state["fingerprint"]:
        # Positions are those of packs, of which each has examples of its own.
        read, held = shard.counters[0], len(shard.pending)
    else:
        read = len(range(shard.shard, shard.position, state["virtual_shards"]))
        held = len(shard.keys) + len(shard.pending) + len(shard.requeued)
        read += shard.more_parts
    out, counted = given[shard.shard], shard.skipped + shard.dropped
    assert out + counted + held == read, (
        f"virtual shard {shard.shard} has read {read} examples; {out} came out, {counted} were "
        f"counted and {held} wait"
    )


def _counted(state: Mapping[str, Any] | None) -> dict[int, int]:
    """Examples of each virtual shard that were skipped or dropped."""
    return {number: shard.skipped + shard.dropped for number, shard in shards_of(state).items()}


def _more_parts(state: Mapping[str, Any] | None) -> dict[int, int]:
    """Parts of each virtual shard beyond the examples that it read."""
    return {number: shard.more_parts for number, shard in shards_of(state).items()}


def check_resume_everywhere(
    dataset: PackedDataset,
    *,
    steps: int | None = None,
    every: int = 1,
    horizon: int | None = None,
    num_workers: int = 0,
    resume_workers: int | None = None,
    context: str | None = None,
) -> int:
    """Check that stopping after any batch and resuming from its state changes nothing.

    The stream is read once without interruption. Then, for each number of batches, the state after
    them goes through JSON into a fresh copy of the dataset, and what that one gives is compared
    field by field with the rest of the uninterrupted stream. A stream of ``n`` batches is so read
    about ``n / 2`` times; ``every`` and ``horizon`` make it shorter.

    Args:
        dataset: of any source that can be resumed; it is not modified.
        steps: batches to read; by default all, for which the stream must be finite.
        every: resume after each ``every``-th batch only.
        horizon: batches to compare after each resume; by default all that are left.
        num_workers: processes of the loader that is interrupted.
        resume_workers: processes of the loader that goes on, by default as many. Another number
            needs ``virtual_shards`` and a whole finite stream, and is compared shard by shard.
        context: how workers are started: ``"fork"``, ``"forkserver"`` or ``"spawn"``.

    Returns:
        How many resumes were compared.

    Raises:
        AssertionError: a batch differs.
        DatasetError: ``resume_workers`` together with ``steps`` or ``horizon``.
        StateError: the source cannot be resumed.

    Source:
        The idea of a public check is that of grain's ``assert_equal_output_after_checkpoint``.

    Example:
        >>> import treepack as tp
        >>> source = [tp.MessageTree([1] * n) for n in (3, 4, 2, 1, 5)]
        >>> dataset = tp.PackedDataset(source, budgets={"tokens": 8}, pool_size=2)
        >>> check_resume_everywhere(dataset, steps=2, horizon=1)
        3
    """
    again = num_workers if resume_workers is None else resume_workers
    if again != num_workers and (horizon, steps) != (None, None):
        raise DatasetError(
            "resume_workers needs a whole finite stream: leave out steps and horizon"
        )
    is_ordered = again == num_workers or dataset.settings.balance is not None
    compare = _compare if is_ordered else _compare_shards
    states, batches = _record(dataset, num_workers, context, steps)
    for n in range(0, len(states), every):
        other = _copy(dataset)
        other.load_state_dict(json.loads(json.dumps(states[n])))
        left = len(batches) - n
        stop = left if horizon is None else min(left, horizon)
        # One more than is left shows that a finite stream ends where it did.
        ends = steps is None and stop == left
        with closing(_batches(other, again, context)) as stream:
            rest = list(itertools.islice(stream, stop + ends))
        compare(batches[n : n + stop], rest, f"resumed after {n} of {len(batches)} batches")
    return len(range(0, len(states), every))


def check_same_packs_for_any_topology(
    dataset: PackedDataset, topologies: Sequence[tuple[int, int]], context: str | None = None
) -> None:
    """Check that the packs do not depend on how many ranks and workers share the work.

    All ranks are read one after the other in this process; only workers are processes of their own.

    Args:
        dataset: of a finite source, with ``virtual_shards`` set; it is not modified.
        topologies: pairs ``(ranks, workers)``, with 0 workers for none; ``ranks * workers`` (or
            ``ranks``) must divide ``virtual_shards``.
        context: how workers are started: ``"fork"``, ``"forkserver"`` or ``"spawn"``.

    Raises:
        AssertionError: a virtual shard gives other packs, or the ranks together another order.
        DatasetError: ranks times workers does not divide ``virtual_shards``; or packs are dealt to
            ranks, and so depend on their number.

    Example:
        >>> import treepack as tp
        >>> source = [tp.MessageTree([1] * n) for n in (3, 4, 2, 1, 5)]
        >>> dataset = tp.PackedDataset(source, budgets={"tokens": 8}, virtual_shards=4)
        >>> check_same_packs_for_any_topology(dataset, [(2, 0), (4, 0)])
    """
    if dataset.settings.balance is not None:
        raise DatasetError(
            "which packs a step has depends on the number of ranks where balance= deals them; "
            "check the dataset without it"
        )
    shards, order = _global_order(dataset, 1, 0, context)
    for ranks, workers in topologies:
        theirs, their_order = _global_order(dataset, ranks, workers, context)
        name = f"{ranks} ranks x {workers} workers"
        assert theirs == shards, f"{name}: the packs differ, shard by shard"
        # Once a shard has ended, the order of those that are left depends on who owns them.
        same = min(len(packs) for packs in shards.values()) * len(shards)
        assert their_order[:same] == order[:same], f"{name}: the packs come in another order"


def assert_batches_equal(actual: PackedBatch, expected: PackedBatch, name: str = "batch") -> None:
    """Check that two batches agree in every field, tensors bit by bit.

    Args:
        actual: a batch.
        expected: what it should be.
        name: what errors call it.

    Raises:
        AssertionError: a field differs, or the fields are others or in another order.

    Example:
        >>> import treepack as tp
        >>> one, other = (tp.collate([tp.MessageTree([1, 2])]) for _ in range(2))
        >>> assert_batches_equal(one, other)
    """
    assert list(actual) == list(expected), f"{name}: fields {list(actual)}, not {list(expected)}"
    for field, value in expected.items():
        assert _equal(actual[field], value), f"{name}: {field!r} is {actual[field]}, not {value}"


def _equal(a: Any, b: Any) -> bool:
    if isinstance(b, PackedRow):
        same = all(
            getattr(a, name) == getattr(b, name)
            for name in ("mask", "keys", "stats", "roles", "response_ids")
        )
        same = same and a.channels.keys() == b.channels.keys()
        same = same and all(_equal(a.channels[name], b.channels[name]) for name in b.channels)
        return same and np.array_equal(a.target_counts, b.target_counts)
    if isinstance(b, torch.Tensor):
        return bool(a.dtype == b.dtype and torch.equal(a, b))
    return bool(a == b)


def _copy(dataset: PackedDataset, shard: tuple[int, int] | None = None) -> PackedDataset:
    """A dataset of the same source that knows nothing of the first one's position."""
    # No model runs on these rows, so no rank waits for another.
    fill = dataset.settings.vision_on_every_row or False
    shard = dataset.shard if shard is None else shard
    return dataset.at_start(shard=shard, vision_on_every_row=fill)


def _batches(
    dataset: PackedDataset, num_workers: int, context: str | None = None
) -> Generator[PackedBatch, None, None]:
    loader = DataLoader(
        dataset,
        batch_size=None,
        num_workers=num_workers,
        multiprocessing_context=context if num_workers else None,
    )
    yield from loader


def _record(
    dataset: PackedDataset, num_workers: int, context: str | None, steps: int | None
) -> tuple[list[dict[str, Any]], list[PackedBatch]]:
    """The state before each batch and after the last, and the batches."""
    dataset = _copy(dataset)
    states, batches = [dataset.state_dict()], []
    with closing(_batches(dataset, num_workers, context)) as stream:
        for batch in itertools.islice(stream, steps):
            dataset.consumed(batch)
            states.append(dataset.state_dict())
            batches.append(batch)
    return states, batches


def _compare(expected: list[PackedBatch], actual: list[PackedBatch], name: str) -> None:
    assert len(actual) == len(expected), f"{name}: {len(actual)} batches, not {len(expected)}"
    for number, (one, other) in enumerate(zip(actual, expected, strict=True)):
        assert_batches_equal(one, other, f"{name}, batch {number}")


def _compare_shards(expected: list[PackedBatch], actual: list[PackedBatch], name: str) -> None:
    """For other workers than before: the order of the shards may differ once one has ended."""
    theirs, ours = _by_shard(actual), _by_shard(expected)
    for shard in sorted({*theirs, *ours}):
        _compare(ours.get(shard, []), theirs.get(shard, []), f"{name}, shard {shard}")


def _by_shard(batches: Iterable[PackedBatch]) -> dict[int, list[PackedBatch]]:
    """Batches by the virtual shard that gave them."""
    shards: dict[int, list[PackedBatch]] = {}
    for batch in batches:
        shards.setdefault(last_shard(batch["treepack"].state), []).append(batch)
    return shards


def _global_order(
    dataset: PackedDataset, ranks: int, workers: int, context: str | None
) -> tuple[dict[int, list[Any]], list[Any]]:
    """Keys of the packs of each virtual shard, and of all in the order of the steps."""
    streams = [
        list(_batches(_copy(dataset, (rank, ranks)), workers, context)) for rank in range(ranks)
    ]
    steps = itertools.chain.from_iterable(itertools.zip_longest(*streams))
    batches = [batch for batch in steps if batch is not None]
    shards = _by_shard(batches)
    keys = {shard: [batch["treepack"].keys for batch in shards[shard]] for shard in sorted(shards)}
    return keys, [batch["treepack"].keys for batch in batches]


def _check_budgets(row: PackedRow, budgets: Mapping[str, int]) -> None:
    for name, limit in budgets.items():
        used = row.stats.get(name, 0)
        alone = len(row.keys) == 1 and row.stats.get("alone")
        assert used <= limit or alone, f"{row.keys}: {used} {name} in a row of {limit}"


def _some(counter: Counter[Any]) -> list[Any]:
    return [key for key, _ in counter.most_common(3)]
