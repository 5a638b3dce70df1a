"""The loader: overhead for each example, hand-over from worker to trainer, memory over a long run.

python benches/loader.py           # half a minute
python benches/loader.py --long    # and 100,000 packs, watching memory: a few minutes
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
import treepack as tp
from common import machine
from torch.utils.data import DataLoader, IterableDataset
from treepack.dataset.state import Scope, ShardState, make_state

BUDGETS = {"tokens": 16_384, "crops": 128}
TREES = [
    tp.MessageTree(
        np.ones(n, np.int64), labels=np.ones(n, np.int64), key=f"{n}", costs={"crops": c}
    )
    for n, c in ((300, 0), (900, 2), (2_000, 9), (4_000, 30), (7_000, 64))
]
COSTS = [tree.cost for tree in TREES]
HAND_OVER = 5.0
PACKS = 100
ROUNDS = 15


class Ready:
    """Trees that need no decoding: what is measured is the loader alone."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> tp.MessageTree:
        return TREES[index % 5]


class Measured(Ready):
    """The same, measured before loading."""

    def measure(self, index: int) -> dict[str, int]:
        """What the tree costs."""
        return COSTS[index % 5]


SOURCES = (Ready, Measured)


def make(source: Any, position: int = 0) -> tp.PackedDataset:
    """An endless stream that goes on at a position of the seeded order."""
    dataset = tp.PackedDataset(source, budgets=BUDGETS, epochs=None, virtual_shards=2)
    if position:
        blank = [0, 0, 0, 0], [], [], [], [], [], [], ""
        shards = [ShardState(shard, 0, position + shard, 0, 0, *blank) for shard in range(2)]
        scope, kind = Scope(1, 0, 0), dataset.fingerprint()
        dataset.load_state_dict(make_state(kind, scope, 2, shards))
    return dataset


class Collate:
    """Stands for `collate` and takes the time that it takes."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self, *args: Any, **options: Any) -> tp.PackedBatch:
        """What `collate` gives."""
        start = time.process_time()
        batch = tp.collate(*args, **options)
        self.seconds += time.process_time() - start
        return batch


class Nothing:
    """Stands for `collate` and lays out nothing, so that everything else stays in the caches."""

    seconds = 0.0

    def __call__(self, trees: list[tp.MessageTree], **_options: Any) -> dict[str, Any]:
        """What the loader looks at."""
        return {"treepack": SimpleNamespace(stats={}, keys=[tree.key for tree in trees])}


def overhead(source: Any, position: int, stand_in: Any = Collate) -> tuple[float, float]:
    """Microseconds of the processor for each example, and to lay out a row."""
    stream = iter(make(source, position))
    next(stream)
    with mock.patch("treepack.dataset.iterator.collate", stand_in()) as collate:
        start = time.process_time()
        packs = [len(batch["treepack"].keys) for batch in itertools.islice(stream, PACKS)]
        seconds = time.process_time() - start - collate.seconds
    return 1e6 * seconds / sum(packs), 1e6 * collate.seconds / PACKS


class Greedy(IterableDataset):
    """What one writes without us: shuffled, and each row is filled until an example does not fit.

    One seed, one process, no state, every example loaded before it is known to fit. Rows are laid
    out as ours are, and that is not counted either.
    """

    def __init__(self, source: Ready, collate: Any) -> None:
        self.source = source
        self.collate = collate

    def __iter__(self) -> Iterator[Any]:
        return map(self.collate, self.rows())

    def rows(self) -> Iterator[list[tp.MessageTree]]:
        """The trees of each row."""
        row: list[tp.MessageTree] = []
        used = dict.fromkeys(BUDGETS, 0)
        for index in torch.randperm(len(self.source)).tolist():
            tree = self.source[index]
            cost = {"tokens": tree.n_tokens, "crops": tree.costs["crops"]}
            if any(used[name] + cost[name] > limit for name, limit in BUDGETS.items()):
                yield row
                row, used = [], dict.fromkeys(BUDGETS, 0)
            row.append(tree)
            for name, value in cost.items():
                used[name] += value
        yield row


def greedy_rows(n: int, stand_in: Any = Collate) -> float:
    """The same for `Greedy`, through a loader of torch in this process."""
    dataset = Greedy(Ready(n), stand_in())
    stream = iter(DataLoader(dataset, batch_size=None))
    next(stream)
    start, before = time.process_time(), dataset.collate.seconds
    count = sum(len(batch["treepack"].keys) for batch in stream)
    seconds = time.process_time() - start - (dataset.collate.seconds - before)
    return 1e6 * seconds / count


def report_overhead() -> None:
    """All in turn, many times over, so that whatever else the machine does slows them alike."""
    print(
        "\nOverhead over the user's decoding, us of the processor an example: draw, measure, pack,"
    )
    print("load, state; beside it, us to lay out a row of 16,384 tokens and as many targets")
    cases = list(itertools.product((10**3, 10**7), (10**3, 10**9)))
    greedy = []
    found: dict[Any, list[Any]] = {case: [] for case in cases}
    for _ in range(ROUNDS):
        greedy.append(greedy_rows(500))
        for keys, position in cases:
            runs = [overhead(kind(keys), position) for kind in SOURCES]
            found[keys, position].append([us for us, _ in runs] + [runs[1][1]])
    rival = statistics.median(greedy)
    print(f"rows filled greedily in plain Python, no state, no rank, no pool: {rival:.1f} us")
    print(f"{'keys':>12}{'position':>14}{'loaded first':>16}{'measured first':>16}{'row':>8}")
    for (keys, position), runs in found.items():
        loaded, measured, row = (statistics.median(column) for column in zip(*runs, strict=True))
        ratios = [[run[i] / g for run, g in zip(runs, greedy, strict=True)] for i in range(2)]
        first, second = map(statistics.median, ratios)
        print(f"{keys:>12,}{position:>14,}{loaded:>16.1f}{measured:>16.1f}{row:>8.0f}", end="")
        print(f"   {first:.1f} and {second:.1f} times greedy")


def report_warm() -> None:
    """The same where nothing is laid out in between, which no training does."""
    rounds = [
        (
            greedy_rows(1_500, Nothing),
            *(overhead(kind(10**7), 10**3, Nothing)[0] for kind in SOURCES),
        )
        for _ in range(ROUNDS)
    ]
    greedy, loaded, measured = (statistics.median(column) for column in zip(*rounds, strict=True))
    first, second = (statistics.median(run[i] / run[0] for run in rounds) for i in (1, 2))
    print("The same where no row is laid out, so that all stays in the caches: greedy", end=" ")
    print(f"{greedy:.1f}, loaded first {loaded:.1f}, measured first {measured:.1f}:", end=" ")
    print(f"{first:.1f} and {second:.1f} times greedy")


def report_resume() -> None:
    print("\nState of a virtual shard, and the time from loading it to the first pack")
    times = []
    for position in (10**3, 10**9):
        dataset = make(Measured(10**7), position)
        list(itertools.islice(dataset, 4))
        text = json.dumps(dataset.state_dict(), separators=(",", ":"))
        start = time.perf_counter()
        other = make(Measured(10**7))
        other.load_state_dict(json.loads(text))
        next(iter(other))
        elapsed = time.perf_counter() - start
        print(f"position {position:>13,}: {len(text) / 2:>7.0f} bytes, {1e3 * elapsed:>6.1f} ms")
        assert len(text) / 2 <= 1024 + 64 * 48
        times.append(elapsed)
    print(f"a million times as far: {times[1] / times[0]:.1f} times as long")


class Copies(IterableDataset):
    """The same small tensors again and again, as a plain dict or as a PackedBatch."""

    def __init__(self, kind: type, n: int) -> None:
        self.kind = kind
        self.n = n

    def __iter__(self) -> Iterator[Any]:
        tensors = {f"field {i}": torch.arange(500) for i in range(16)}
        return iter([self.kind(tensors)] * self.n)


def hand_over(kind: type, n: int = 1_000) -> float:
    """Microseconds a batch, from a worker to the main process."""
    stream = iter(DataLoader(Copies(kind, n), batch_size=None, num_workers=1))
    next(stream)
    start = time.perf_counter()
    for batch in stream:
        assert len(batch) == 16
    return 1e6 * (time.perf_counter() - start) / (n - 1)


def report_hand_over() -> None:
    runs = [(hand_over(dict), hand_over(tp.PackedBatch)) for _ in range(5)]
    plain, packed = (statistics.median(column) for column in zip(*runs, strict=True))
    ratio = statistics.median(a / b for a, b in runs)
    print("\nHand-over of 16 tensors of 4 kB from a worker, us a batch, same run")
    print(f"dict {plain:.0f}, PackedBatch {packed:.0f}: {ratio:.1f} times cheaper")
    assert ratio >= HAND_OVER


def resident() -> int:
    """Resident kB of this process."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


def report_memory() -> None:
    stream = iter(make(Measured(10**7)))
    marks = {}
    for n, _ in enumerate(itertools.islice(stream, 100_001)):
        if n in (10_000, 100_000):
            marks[n] = resident()
    early, late = marks.values()
    print(f"\nResident memory at pack 10,000: {early} kB, at 100,000: {late} kB")
    assert late <= 1.01 * early


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--long", action="store_true", help="100,000 packs, watching memory")
    long = parser.parse_args().long
    print(machine.describe())
    torch.set_num_threads(1)
    report_overhead()
    report_warm()
    report_resume()
    report_hand_over()
    if long:
        report_memory()


if __name__ == "__main__":
    main()
