"""Killed workers, interrupts, poisoned data: an error at once, nothing lost or left behind.

``TREEPACK_CASES=10`` kills at twenty steps instead of two.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import treepack as tp
from helpers.cases import cases
from helpers.tree_sources import BUDGETS, Trees, dataset, names, tree_of
from torch.utils.data import DataLoader
from treepack.testing import assert_batches_equal, check_exactly_once

TESTS = Path(__file__).parents[1]


def workers_of(iterator):
    return [worker.pid for worker in iterator._workers]


def consume(iterator, stream, consumed, step, pid):
    """Read on for ever, but kill a worker at a step."""
    while True:
        if len(consumed) == step:
            os.kill(pid, signal.SIGKILL)
        consumed.append(next(iterator))
        stream.consumed(consumed[-1])


def test_a_killed_worker_is_an_error_that_names_it_and_the_resume_is_exact():
    whole = list(DataLoader(dataset(n=400, virtual_shards=2), batch_size=None, num_workers=2))
    for rng in cases(2, "kill"):
        step, victim = int(rng.integers(0, 60)), int(rng.integers(0, 2))
        stream, consumed = dataset(n=400, virtual_shards=2), []
        iterator = iter(DataLoader(stream, batch_size=None, num_workers=2, prefetch_factor=1))
        pid = workers_of(iterator)[victim]
        with pytest.raises(RuntimeError, match=rf"worker \(pid.*{pid}"):
            consume(iterator, stream, consumed, step, pid)
        # A batch of each worker may have been waiting, and the other one makes one more.
        assert step <= len(consumed) <= step + 3
        del iterator
        other = dataset(n=400, virtual_shards=2)
        other.load_state_dict(json.loads(json.dumps(stream.state_dict())))
        rest = list(DataLoader(other, batch_size=None, num_workers=2))
        for batch, expected in zip(consumed + rest, whole, strict=True):
            assert_batches_equal(batch, expected)


def test_an_interrupt_leaves_no_process_behind():
    code = textwrap.dedent(
        f"""
        import signal, sys
        # A job in the background of a shell is told to ignore it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.path.insert(0, {str(TESTS)!r})
        from torch.utils.data import DataLoader
        from helpers.tree_sources import dataset
        loader = DataLoader(
            dataset(epochs=None, virtual_shards=2), batch_size=None, num_workers=2
        )
        iterator = iter(loader)
        next(iterator)
        print(*(worker.pid for worker in iterator._workers), flush=True)
        for batch in iterator:
            pass
        """
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            pids = [int(pid) for pid in process.stdout.readline().split()]
            assert len(pids) == 2
            # As a terminal does it: to the whole group.
            os.killpg(process.pid, signal.SIGINT)
            assert process.wait(timeout=60) != 0
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    left = [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    assert not left


class Poisoned(Trees):
    """One example in ten is bad: too large, an exception, a wrong dtype, a corrupt picture."""

    def __getitem__(self, index):
        if index % 10 != 3:
            return tree_of(index)
        key = f"bad {index}"
        return [
            lambda: tp.MessageTree([1] * 999, key=key, costs={"crops": 1}),
            lambda: {}["missing"],
            lambda: tp.MessageTree(np.ones(3), key=key, costs={"crops": 1}),
            lambda: _decode(b"\x89PNG\r\n\x1a\n and no more"),
        ][index // 10 % 4]()


def _decode(data):
    import io

    from PIL import Image

    return Image.open(io.BytesIO(data)).load()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_poisoned_stream_loses_no_good_example(workers):
    stream = tp.PackedDataset(Poisoned(400), budgets=BUDGETS, pool_size=6, on_error="skip")
    good = [name for i, name in enumerate(names(400)) if i % 10 != 3]
    check_exactly_once(stream, good, workers)
    skipped = sum(
        max(shard[4] for shard in shards)
        for shards in _by_shard(DataLoader(stream, batch_size=None, num_workers=workers)).values()
    )
    assert skipped == 40


def _by_shard(loader):
    shards = {}
    for batch in loader:
        for shard in batch["treepack"].state["shards"]:
            shards.setdefault(shard[0], []).append(shard)
    return shards


class Breaking:
    """A generator that ends with an error."""

    def __iter__(self):
        for i in range(20):
            if i == 9:
                raise OSError("the connection was cut")
            yield tree_of(i)


def test_a_generator_that_breaks_is_an_error_even_under_skip():
    stream = tp.PackedDataset(Breaking(), budgets=BUDGETS, pool_size=4, on_error="skip")
    iterator, keys = iter(stream), []
    with pytest.raises(tp.errors.DatasetError, match=r"example 9.*connection.*nothing after it"):
        keys.extend(key for batch in iterator for key in batch["treepack"].keys)
    # What had been read before still comes.
    keys += [key for batch in iterator for key in batch["treepack"].keys]
    assert sorted(keys) == sorted(names(9))
