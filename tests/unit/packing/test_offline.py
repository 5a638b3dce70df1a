"""What packing a whole table accepts, rejects, keeps and tells."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import treepack as tp
from treepack import errors
from treepack.packing import Packs

COSTS = {"tokens": [60, 70, 40, 30], "crops": [2, 1, 6, 5]}
BUDGETS = {"tokens": 100, "crops": 8}


@pytest.mark.parametrize(
    ("costs", "options", "error", "says"),
    [
        ({"tokens": [1]}, {}, errors.CostError, ["['crops']", "['tokens']"]),
        ([1, 2], {}, errors.CostError, ["list", "CostTable"]),
        ({"tokens": [1, 2], "crops": [1]}, {}, errors.CostError, ["(2,)", "(1,)"]),
        ({"tokens": [1.5], "crops": [1]}, {}, errors.CostError, ["'tokens'", "float64"]),
        ({"tokens": [1, -4], "crops": [1, 1]}, {}, errors.CostError, ["example 1", "-4 tokens"]),
        ({"tokens": [1, 0], "crops": [1, 0]}, {}, errors.CostError, ["example 1", "nothing"]),
        ({"tokens": [1, 101], "crops": [1, 0]}, {}, errors.OversizeError, ["example 1", "101"]),
        ({"tokens": [1 << 40], "crops": [0]}, {}, errors.OversizeError, ["example 0", "tokens"]),
        (COSTS, {"window": 0}, errors.BudgetError, ["window", "0"]),
        (COSTS, {"window": 1.5}, errors.BudgetError, ["window", "1.5"]),
        (COSTS, {"order": "kept", "window": 1 << 20}, errors.BudgetError, ["pool_size", "32768"]),
        (COSTS, {"seed": -1}, errors.BudgetError, ["seed", "-1"]),
        (COSTS, {"order": "sorted"}, errors.BudgetError, ["order", "sorted", "shuffled", "kept"]),
        (COSTS, {"effort": "most"}, errors.BudgetError, ["effort", "most", "best"]),
        (COSTS, {"oversize": "splat"}, errors.BudgetError, ["oversize", "splat", "alone"]),
    ],
)
def test_bad_input_is_named(costs, options, error, says):
    with pytest.raises(error) as caught:
        tp.pack(costs, BUDGETS, **options)
    assert all(word in str(caught.value) for word in says), str(caught.value)


def test_a_cost_table_packs_as_its_columns_and_other_columns_do_not_matter():
    table = tp.costs.CostTable({**COSTS, "branches": [9, 9, 9, 9]}, keys=[3, 1, 0, 2])
    packs = tp.pack(table, BUDGETS)
    again = tp.pack(table.columns, BUDGETS)
    assert packs.members.tolist() == again.members.tolist()
    for members in packs:
        assert sum(table[int(i)]["tokens"] for i in members) <= 100


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32", "uint32", "int64", "uint64"])
def test_columns_may_be_of_any_integers(dtype):
    costs = {"tokens": np.array([60, 70, 40, 30], dtype)}
    packs = tp.pack(costs, {"tokens": 100}, order="kept")
    assert [pack.tolist() for pack in packs] == [[0, 2], [1, 3]]
    assert packs.statistics["fill"] == {"tokens": 1.0}


@pytest.mark.parametrize("order", ["shuffled", "kept"])
def test_an_empty_table_has_no_packs(order):
    packs = tp.pack({"tokens": [], "crops": []}, BUDGETS, order=order, effort="best")
    assert (len(packs), list(packs), packs.statistics["rows_per_bound"]) == (0, [], 1.0)


def test_examples_without_costs_are_an_error_or_left_out_and_counted():
    costs = {"tokens": [60, -1, 40, 70, 30], "pairs": [1, -1, 1, 1, 1]}
    table = tp.costs.CostTable(costs, reasons={1: "no such file"})
    with pytest.raises(errors.CostError, match=r"1 examples .* first is 1: no such file"):
        tp.pack(table, {"tokens": 100})
    packs = tp.pack(table, {"tokens": 100}, on_error="skip", order="kept")
    assert [pack.tolist() for pack in packs] == [[0, 2], [3, 4]]
    assert packs.statistics["skipped"] == 1
    assert packs.settings["examples"] == 5
    with pytest.raises(errors.CostError, match="on_error must be"):
        tp.pack(table, {"tokens": 100}, on_error="drop")


def test_packs_are_indexed_from_both_ends():
    packs = tp.pack(COSTS, BUDGETS, order="kept")
    assert [p.tolist() for p in packs] == [[0, 2], [1, 3]]
    assert packs[-1].tolist() == [1, 3]
    for wrong in (2, -3):
        with pytest.raises(IndexError, match=str(wrong)):
            packs[wrong]


@pytest.mark.parametrize("name", ["packs.npz", "packs.parquet", "packs"])
def test_saved_packs_are_read_as_they_were(tmp_path, name):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    packs = tp.pack({"tokens": [60, 700, 40], "crops": [2, 1, 6]}, BUDGETS, oversize="alone")
    packs.save(tmp_path / name)
    read = Packs.load(tmp_path / name)
    assert read.offsets.tolist() == packs.offsets.tolist()
    assert read.members.tolist() == packs.members.tolist()
    assert (read.settings, read.statistics) == (packs.settings, packs.statistics)
    assert read.settings["examples"] == 3
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["packs.npz", "packs.parquet"])
def test_a_file_of_something_else_is_named(tmp_path, name):
    pytest.importorskip("pyarrow")
    path = tmp_path / name
    path.write_text("nothing of ours")
    with pytest.raises(errors.DataError, match=name):
        Packs.load(path)
    if name.endswith("npz"):
        np.savez(path, x=1)
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"x": [1]}), path)
    with pytest.raises(errors.DataError, match=name):
        Packs.load(path)


@pytest.mark.parametrize(
    ("offsets", "members", "says"),
    [
        ([0, 2], [0, 0], "example 0"),
        ([0, 2], [0, -1], "-1"),
        ([0, 1], [0, 1], "2 members"),
        ([0, 2, 2], [0, 1], "pack 1"),
        ([], [], "offsets"),
    ],
)
def test_packs_that_contradict_themselves_are_rejected(offsets, members, says):
    with pytest.raises(errors.DataError, match=says):
        Packs(np.array(offsets, np.int64), np.array(members, np.int64))


def test_packs_of_another_dtype_are_rejected():
    with pytest.raises(errors.DataError, match="int32"):
        Packs(np.array([0, 1], np.int32), np.array([0], np.int64))


@pytest.mark.parametrize("effort", ["fast", "best"])
def test_progress_rises_to_its_end(effort):
    seen = []
    columns = {"tokens": np.arange(1, 9_001) % 90 + 1}
    tp.pack(columns, {"tokens": 100}, effort=effort, progress=lambda *at: seen.append(at))
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1] >= 9_000


def test_an_interrupt_between_two_steps_ends_packing():
    def interrupt(_done, _total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tp.pack({"tokens": np.ones(200_000, int)}, {"tokens": 100}, progress=interrupt)


def test_a_bar_is_shown_if_rich_is_there(capsys):
    pytest.importorskip("rich")
    tp.pack(COSTS, BUDGETS, progress=True)
    assert "packing" in capsys.readouterr().out


def test_packing_needs_numpy_alone():
    code = (
        "import sys, treepack as tp; tp.pack({'t': [1, 2]}, {'t': 3}); "
        "print(*{'torch', 'rich', 'pyarrow', 'transformers'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""
