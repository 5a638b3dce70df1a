"""What the rows of a training are like, in numbers for a logger."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from treepack.batch.packed_row import PackedRow
from treepack.errors import BatchError

PREFIX = "treepack/"

TOTALS = {
    "dropped": "dropped_oversize_total",
    "alone": "alone_total",
    "split": "split_total",
    "truncated": "truncated_total",
    "skipped": "skipped_total",
}
"""Counters of a virtual shard, and their names in a report."""

PER_ROW = ("branches", "targets", "attention_pairs", "tokens")


class Statistics:
    """Sums up the rows that one rank trains on, and reports them as one flat dict of floats.

    What a report holds, each name after ``treepack/``; the names of TRL and llm-foundry where they
    have one. Of the rows since the last report:

    - ``fill_NAME``: the mean share of each budget that is used; ``row_fill_frac``: of tokens.
    - ``packing_ratio``: examples a row; ``branches_per_row``, ``targets_per_row``,
      ``tokens_per_row`` (without padding) and ``attention_pairs_per_row``.
    - ``pad_frac``: padding as a share of all tokens.
    - ``wait_mean``, ``wait_p99``, ``wait_max``: packs that examples waited in their pool;
      ``pool``: examples in it.
    - ``tokens_per_second``, ``targets_per_second``, ``examples_per_second``: without padding.

    And since the beginning:

    - ``rows_total``, ``examples_total``; ``rows_per_bound``: rows, as a multiple of the fewest that
      the volume of their examples allows.
    - ``fillers_total``: rows without weight, of packs of which no example could be loaded, so that
      ranks stay in step (``PackedDataset(balance=)``).
    - ``dropped_oversize_total``, ``alone_total``, ``split_total``, ``skipped_total``: examples over
      a budget that were dropped, came alone in a row or were split, and examples that failed;
      ``truncated_total``: branches that were cut; a stream that was resumed goes on counting,
      and one that is balanced counts for all ranks, but what failed while loading for this one.

    Args:
        clock: gives seconds; for tests.

    Example:
        >>> import treepack as tp
        >>> source = [tp.MessageTree([1, 2, 3], labels=[-100, 2, 3])] * 4
        >>> dataset = tp.PackedDataset(source, budgets={"tokens": 8})
        >>> statistics = tp.train.Statistics()
        >>> for step, (packs, weight) in enumerate(tp.train.steps(dataset)):
        ...     statistics.add(packs)  # and train on them
        >>> report = statistics.report()  # every few steps: writer.add_scalars, wandb.log(report)
        >>> report["treepack/fill_tokens"], report["treepack/packing_ratio"]
        (0.75, 2.0)
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        # Counters of each virtual shard, as its latest row has them.
        self._shards: dict[float, Mapping[str, float]] = {}
        self._filled: Counter[str] = Counter()
        self._rows = self._examples = self._lost = self._fillers = 0.0
        # A step that is filled up repeats the row before.
        self._latest: PackedRow | None = None
        self._begin()

    def add(self, packs: Mapping[str, Any] | Iterable[Mapping[str, Any]]) -> None:
        """Count the rows of a step.

        Args:
            packs: a `PackedBatch`, or several.

        Raises:
            BatchError: something else, such as a batch without ``"treepack"``.

        Example:
            >>> import treepack as tp
            >>> batch = tp.collate([tp.MessageTree([1, 2])], total=4)
            >>> statistics = tp.train.Statistics()
            >>> statistics.add(batch)
            >>> statistics.report()["treepack/pad_frac"]
            0.5
        """
        for pack in [packs] if isinstance(packs, Mapping) else packs:
            row = pack.get("treepack") if isinstance(pack, Mapping) else None
            if not isinstance(row, PackedRow):
                raise BatchError(
                    f"statistics are of packed rows, got {type(pack).__name__} with 'treepack' "
                    f"{type(row).__name__}; pass the batches that PackedDataset or collate made"
                )
            if row is not self._latest:
                self._count(row)
            self._latest = row

    def report(self) -> dict[str, float]:
        """What was counted, by name; means begin anew with the next row.

        Returns:
            Floats alone, ready for a logger; empty if nothing was ever counted.
        """
        if not self._rows:
            return {}
        found = {**self._of_window(), **self._of_all()}
        self._begin()
        return {f"{PREFIX}{name}": float(value) for name, value in found.items()}

    def _begin(self) -> None:
        self._sums: Counter[str] = Counter()
        self._window_rows = 0
        self._waits: list[int] = []
        self._since = self._clock()

    def _count(self, row: PackedRow) -> None:
        stats, mask = row.stats, row.mask
        self._rows += 1
        self._examples += stats.get("examples", 0.0)
        self._lost += stats.get("lost", 0.0)
        self._fillers += stats.get("filler", 0.0)
        self._filled.update({n: v for n, v in stats.items() if n.startswith("fill_")})
        if "shard" in stats:
            self._shards[stats["shard"]] = stats
        self._window_rows += 1
        self._sums.update(stats)
        self._sums.update(used=mask.used, total=mask.total)
        self._waits += row.waits

    def _of_window(self) -> dict[str, float]:
        rows, sums = self._window_rows, self._sums
        if not rows:
            return {}
        found = {name: sums[name] / rows for name in sums if name.startswith("fill_")}
        if "fill_tokens" in found:
            found["row_fill_frac"] = found["fill_tokens"]
        found["packing_ratio"] = sums["examples"] / rows
        sums["tokens"] = sums["used"]
        found |= {f"{name}_per_row": sums[name] / rows for name in PER_ROW}
        found["pad_frac"] = 1 - sums["used"] / max(sums["total"], 1)
        if self._waits:
            found |= _of_waits(self._waits)
        if "pool" in sums:
            found["pool"] = sums["pool"] / rows
        seconds = self._clock() - self._since
        if seconds > 0:
            rates = ("tokens", "targets", "examples")
            found |= {f"{name}_per_second": sums[name] / seconds for name in rates}
        return found

    def _of_all(self) -> dict[str, float]:
        found = {"rows_total": self._rows, "examples_total": self._examples}
        bound = max(self._filled.values(), default=0.0)
        if bound:
            found["rows_per_bound"] = self._rows / bound
        if self._shards:
            shards = self._shards.values()
            found |= {told: sum(s.get(n, 0.0) for s in shards) for n, told in TOTALS.items()}
            found["skipped_total"] += self._lost
            found["fillers_total"] = self._fillers
        return found


def _of_waits(waits: list[int]) -> dict[str, float]:
    waits = sorted(waits)
    most = waits[math.ceil(0.99 * len(waits)) - 1]
    return {"wait_mean": sum(waits) / len(waits), "wait_p99": most, "wait_max": waits[-1]}
