"""Large tables are written once for spawned workers, which map the file."""

from __future__ import annotations

import copy
import gc
import pickle
from multiprocessing import context
from pathlib import Path

import numpy as np
import pytest
import treepack as tp
from torch.utils.data import DataLoader
from treepack.sources.costs import shared


@pytest.fixture
def spawning(monkeypatch, tmp_path):
    """As if a worker were being spawned; temporary files are in a folder of their own."""
    monkeypatch.setattr(shared.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(shared, "LEAST", 1_000)
    context.set_spawning_popen(object())
    yield tmp_path
    context.set_spawning_popen(None)


def make_table(n=5_000):
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 4, n)
    branches = tp.costs.Branches(np.cumsum([0, *counts]), rng.integers(1, 9, counts.sum()))
    return tp.costs.CostTable({"tokens": rng.integers(1, 99, n)}, branches=branches)


def assert_same(one, other):
    assert one.names == other.names
    assert np.array_equal(one.columns["tokens"], other.columns["tokens"])
    assert one[7] == other[7]
    assert all(one.branches[i] == other.branches[i] for i in range(len(one)))


def test_a_table_is_written_once_and_mapped(spawning):
    table = make_table()
    sent = [pickle.dumps(table) for _ in range(2)]
    assert max(map(len, sent)) < 2_000
    (folder,) = spawning.iterdir()
    for each in sent:
        again = pickle.loads(each)
        assert isinstance(again.columns["tokens"], np.memmap)
        assert_same(again, table)
        with pytest.raises(ValueError, match="read-only"):
            again.columns["tokens"][0] = 1
    del again
    gc.collect()
    assert folder.exists()
    del table
    gc.collect()
    assert not folder.exists()


def test_elsewhere_a_table_is_pickled_and_copied_whole(spawning):
    context.set_spawning_popen(None)
    table = make_table()
    for other in (pickle.loads(pickle.dumps(table)), copy.copy(table), copy.deepcopy(table)):
        assert_same(other, table)
    assert not list(spawning.iterdir())


def test_without_room_for_a_file_each_worker_gets_a_copy(spawning, monkeypatch):
    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(shared.np, "save", full)
    table = make_table()
    assert_same(pickle.loads(pickle.dumps(table)), table)


def test_spawned_workers_pack_from_it(monkeypatch):
    monkeypatch.setattr(shared, "LEAST", 100)
    lengths = np.random.default_rng(0).integers(1, 30, 200)
    source = [tp.MessageTree([1] * int(n), labels=[1] * int(n)) for n in lengths]
    table = tp.costs.measure(source, workers=0)
    packs = tp.pack(table, {"tokens": 64})
    for given in (None, packs):
        dataset = tp.PackedDataset(source, costs=table, packs=given, budgets={"tokens": 64})
        loader = DataLoader(
            dataset, batch_size=None, num_workers=1, multiprocessing_context="spawn"
        )
        keys = [row["treepack"].keys for row in loader]
        assert keys == [row["treepack"].keys for row in dataset]
    folder = Path(table._shared._folder)
    assert folder.exists()
