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


TRACES = {
    "costs.csv": "tokens,name,crops\n9,a b,2\n\n4,c,\n",
    "costs.jsonl": '{"key": 7, "tokens": 9, "crops": 2}\n\n{"tokens": 4, "crops": null}\n',
}


@pytest.mark.parametrize("name", TRACES)
def test_a_trace_is_read_and_what_is_missing_has_no_costs(tmp_path, name):
    (tmp_path / name).write_text(TRACES[name])
    table = tp.costs.read(tmp_path / name)
    assert {k: column.tolist() for k, column in table.columns.items()} == {
        "tokens": [9, 4],
        "crops": [2, -1],
    }
    assert table.unmeasured.tolist() == [1]
    with pytest.raises(errors.CostError, match=r"example 1: the table has no costs of it"):
        table[1]
    assert tp.costs.read(tmp_path / name, ["tokens"])[1] == {"tokens": 4}


def test_npy_and_parquet_are_told_by_their_names(tmp_path):
    pytest.importorskip("pyarrow")
    np.save(tmp_path / "costs.npy", [[9, 2], [4, 1]])
    table = tp.costs.read(tmp_path / "costs.npy", ["tokens", "crops"])
    table.to_parquet(tmp_path / "costs.parquet")
    assert tp.costs.read(tmp_path / "costs.parquet")[1] == {"tokens": 4, "crops": 1}
    assert [path.name for path in tmp_path.iterdir() if "unfinished" in path.name] == []


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.csv", "tokens\n9\nx\n", r"a.csv:3: tokens is 'x'; a cost must be an integer"),
        ("a.csv", "tokens\n9,8\n", r"a.csv:2: has 2 fields and the first line 1"),
        ("a.csv", "tokens\n-4\n", r"a.csv:2: has no integers"),
        ("a.csv", "", r"a.csv: holds no examples"),
        ("a.jsonl", '{"tokens": 9}\n{"token": 9}\n', r"a.jsonl:2: has no column 'tokens'"),
        ("a.jsonl", '{"tokens": 9}\n{"tokens": 9.5}\n', r"a.jsonl:2: tokens is 9.5"),
        ("a.jsonl", '{"tokens": 9}\n{"tokens": true}\n', r"a.jsonl:2: tokens is True"),
        ("a.jsonl", "[9]\n", r"a.jsonl:1: is a list"),
        ("a.jsonl", "{\n", r"a.jsonl:1: is no JSON"),
        ("a.txt", "9\n", r"a.txt: costs are read from .parquet, .npy, .csv and .jsonl"),
        ("a.npy", "", r"a.npy: an npy file does not name its columns"),
    ],
)
def test_a_trace_that_makes_no_sense_names_file_line_and_column(tmp_path, name, text, says):
    (tmp_path / name).write_text(text)
    with pytest.raises(errors.CostError, match=says):
        tp.costs.read(tmp_path / name)


def test_a_file_that_is_not_there():
    with pytest.raises(FileNotFoundError, match=r"there is no file nowhere.csv"):
        tp.costs.read("nowhere.csv")


def test_a_table_keeps_32_bits_where_they_are_enough(tmp_path):
    pytest.importorskip("pyarrow")
    table = tp.costs.CostTable(
        {"tokens": [1, -1, 3], "pairs": [2**40, -1, 5]},
        settings={"family": "text", "n": [1]},
        reasons={1: "no such file"},
    )
    assert [column.dtype for column in table.columns.values()] == [np.int32, np.int64]
    table.to_parquet(tmp_path / "costs.parquet")
    again = tp.costs.from_parquet(tmp_path / "costs.parquet")
    for name, column in table.columns.items():
        np.testing.assert_array_equal(again.columns[name], column)
    assert (again.settings, again.reasons) == (table.settings, table.reasons)
    with pytest.raises(errors.CostError, match=r"example 1: .*no such file"):
        again[1]


def test_an_example_without_costs_obeys_on_error():
    costs = tp.costs.CostTable(
        {"tokens": [-1, *TOKENS[1:]], "crops": CROPS}, reasons={0: "no such file"}
    )
    stream = tp.PackedDataset(Trees(N), costs=costs, budgets=BUDGETS, on_error="skip")
    found = {key for row in keys(stream) for key in row}
    assert found == {f"example {i}" for i in range(1, N)}
    with pytest.raises(errors.CostError, match=r"example 0: .*no such file"):
        keys(tp.PackedDataset(Trees(N), costs=costs, budgets=BUDGETS))
