"""Costs known in advance: looked up, never measured."""

from __future__ import annotations

import numpy as np
import pytest
import treepack as tp
from helpers.tree_sources import BUDGETS, Trees, dataset, tree_of
from treepack import errors
from treepack.testing import check_resume_everywhere

N = 40
COSTS = [tree_of(i).cost for i in range(N)]
TOKENS = [cost["tokens"] for cost in COSTS]
CROPS = [cost["crops"] for cost in COSTS]


def keys(stream):
    return [batch["treepack"].keys for batch in stream]


def test_an_npy_file_gives_the_packs_of_measuring(tmp_path):
    np.save(tmp_path / "costs.npy", np.array([TOKENS, CROPS], np.int32).T)
    costs = tp.costs.from_numpy(tmp_path / "costs.npy", ["tokens", "crops"])
    stream = tp.PackedDataset(Trees(N), costs=costs, budgets=BUDGETS, pool_size=6)
    assert keys(stream) == keys(dataset(n=N))
    check_resume_everywhere(stream, every=3)


@pytest.mark.parametrize("with_key", [True, False])
def test_a_parquet_file_gives_the_packs_of_measuring(tmp_path, with_key):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    order = np.random.default_rng(1).permutation(N) if with_key else np.arange(N)
    columns = {
        "key": order if with_key else [f"name {i}" for i in order],
        "crops": [CROPS[i] for i in order],
        "patches": [4 * CROPS[i] for i in order],
        "tokens": [TOKENS[i] for i in order],
        "node_len": [[1, 2] for _ in order],
    }
    pq.write_table(pa.table(columns), tmp_path / "costs.parquet")
    costs = tp.costs.from_parquet(tmp_path / "costs.parquet")
    assert costs.names == ("crops", "patches", "tokens")
    assert costs[3] == {"crops": CROPS[3], "patches": 4 * CROPS[3], "tokens": TOKENS[3]}
    stream = tp.PackedDataset(Trees(N), costs=costs, budgets=BUDGETS, pool_size=6)
    assert keys(stream) == keys(dataset(n=N))
    with pytest.raises(errors.CostError, match="node_len"):
        tp.costs.from_parquet(tmp_path / "costs.parquet", ["node_len"])


class Counted(Trees):
    """Notes what is loaded."""

    def __init__(self, n):
        super().__init__(n)
        self.loaded = []

    def __getitem__(self, index):
        self.loaded.append(index)
        return tree_of(index)


def test_nothing_is_loaded_before_it_is_selected():
    source = Counted(N)
    costs = tp.costs.CostTable({"tokens": TOKENS, "crops": CROPS})
    stream = iter(tp.PackedDataset(source, costs=costs, budgets=BUDGETS, pool_size=20))
    row = next(stream)["treepack"]
    assert [f"example {i}" for i in source.loaded] == row.keys


def test_a_wrong_cost_is_an_error_that_names_both():
    costs = tp.costs.CostTable({"tokens": [2] * N, "crops": CROPS})
    with pytest.raises(errors.DataError, match=r"measured with 2 tokens and has \d+"):
        keys(tp.PackedDataset(Trees(N), costs=costs, budgets=BUDGETS))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: tp.costs.CostTable({}), "one-dimensional"),
        (lambda: tp.costs.CostTable({"a": [1], "b": [1, 2]}), "of one length"),
        (lambda: tp.costs.CostTable({"a": [1.5]}), "integers, got float64"),
        (lambda: tp.costs.CostTable({"a": [1, 2]}, keys=[0, 2]), "key 2 stands where 1"),
        (lambda: tp.costs.CostTable({"a": [1, 2]}, keys=["x", "y"]), "2 integers"),
        (lambda: tp.costs.from_numpy([[1, 2]], ["a"]), r"\[n, 1\]"),
    ],
)
def test_a_table_that_makes_no_sense_is_rejected(make, says):
    with pytest.raises(errors.CostError, match=says):
        make()


def test_a_table_of_another_length_or_for_an_iterable_is_rejected():
    costs = tp.costs.CostTable({"tokens": TOKENS, "crops": CROPS})
    with pytest.raises(errors.DatasetError, match="40 entries and the source 41"):
        tp.PackedDataset(Trees(41), costs=costs, budgets=BUDGETS)
    with pytest.raises(errors.DatasetError, match="__len__"):
        tp.PackedDataset(_Iterable(), costs=costs, budgets=BUDGETS)


class _Iterable:
    def __iter__(self):
        return iter(())
