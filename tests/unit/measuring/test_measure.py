"""Is a table what the dataset would have measured, wherever and in however many runs it is made?"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sys
import types

import numpy as np
import pytest
import treepack as tp
from helpers import tiny_models
from helpers.tree_sources import BUDGETS, MeasuredTrees, Trees, tree_of
from treepack import errors, families
from treepack.measuring.parts import Parts
from treepack.sources.conversations import Conversations

N = 150
"""More than two pieces."""

pa = pytest.importorskip("pyarrow")


class Failing(Trees):
    """Some examples cannot be read."""

    bad = (3, 70)

    def __getitem__(self, index):
        if index in self.bad:
            raise OSError(f"no such file {index}.png")
        return tree_of(index)


class Counting(Failing):
    """Notes what is read, and is cut off at an example."""

    bad, end = (), N

    def __init__(self, n):
        super().__init__(n)
        self.read = []

    def __getitem__(self, index):
        if index >= self.end:
            raise KeyboardInterrupt
        self.read.append(index)
        return super().__getitem__(index)


class Dying(Trees):
    """The process that reads an example is gone."""

    def __getitem__(self, index):
        if index == 100:
            os._exit(7)
        return tree_of(index)


def rows(table):
    return {name: column.tolist() for name, column in table.columns.items()}


def expected(n=N):
    stats = [tp.collate([tree_of(i)])["treepack"].stats for i in range(n)]
    costs = {name: [tree_of(i).cost[name] for i in range(n)] for name in ("tokens", "crops")}
    shapes = {"branches": "branches", "targets": "targets", "pairs": "attention_pairs"}
    return {**costs, **{name: [int(s[stat]) for s in stats] for name, stat in shapes.items()}}


@pytest.mark.parametrize("source", [Trees(N), MeasuredTrees(N)], ids=["loaded", "measured"])
def test_a_table_says_what_each_example_costs(source):
    table = tp.costs.measure(source, workers=0)
    assert rows(table) == expected()
    few = tp.costs.measure(source, workers=0, names=["crops"], shapes=False)
    assert rows(few) == {"crops": expected()["crops"]}


def test_worker_processes_give_the_same_table(tmp_path):
    out = tmp_path / "costs.parquet"
    table = tp.costs.measure(Failing(N), workers=2, out=out, on_error="skip")
    assert list(tmp_path.iterdir()) == [out]
    here = tp.costs.measure(Failing(N), workers=0, on_error="skip")
    assert (rows(table), table.reasons) == (rows(here), here.reasons)
    with pytest.raises(errors.DataError, match=r"example (3|70): .*no such file"):
        tp.costs.measure(Failing(N), workers=2)


def test_the_file_of_a_table_has_keys_and_names(tmp_path):
    out = tmp_path / "costs.parquet"
    table = tp.costs.measure(Trees(N), workers=0, out=out)
    assert rows(table) == expected()
    assert list(tmp_path.iterdir()) == [out]
    import pyarrow.parquet as pq

    found = pq.read_table(out)
    assert found.column("key").to_pylist() == list(range(N))
    assert found.column("name").to_pylist() == [f"example {i}" for i in range(N)]
    names = [*expected(), "key", "name", "error", "branch_tokens", "branch_joined", "branch_shared"]
    assert sorted(found.column_names) == sorted(names)
    assert rows(tp.costs.from_parquet(out)) == expected()


def test_the_table_packs_as_measuring_does():
    table = tp.costs.measure(Trees(N), workers=0)
    packs = [
        [batch["treepack"].keys for batch in tp.PackedDataset(Trees(N), budgets=BUDGETS, costs=c)]
        for c in (table, None)
    ]
    assert packs[0] == packs[1]


def test_what_cannot_be_measured_is_raised_or_stands_without_costs(tmp_path):
    with pytest.raises(errors.DataError, match=r"example 3: .*no such file"):
        tp.costs.measure(Failing(N), workers=0)
    out = tmp_path / "costs.parquet"
    table = tp.costs.measure(Failing(N), workers=0, on_error="skip", out=out)
    assert table.unmeasured.tolist() == [3, 70]
    assert all("no such file" in table.reasons[index] for index in (3, 70))
    assert tp.costs.from_parquet(out).reasons == table.reasons
    stream = tp.PackedDataset(Failing(N), budgets=BUDGETS, costs=table, on_error="skip")
    seen = {key for batch in stream for key in batch["treepack"].keys}
    assert seen == {f"example {i}" for i in range(N) if i not in (3, 70)}


def test_a_run_that_is_cut_off_goes_on_where_it_stopped(tmp_path):
    out, source = tmp_path / "costs.parquet", Counting(N)
    source.end = 100
    with pytest.raises(KeyboardInterrupt):
        tp.costs.measure(source, workers=0, out=out)
    assert not out.exists()
    parts = sorted(path.name for path in (tmp_path / "costs.parquet.parts").iterdir())
    assert parts == ["000000000000.parquet", "about.json"]
    source.end, source.read = N, []
    assert rows(tp.costs.measure(source, workers=0, out=out)) == expected()
    # The first example says what the columns are.
    assert sorted(set(source.read)) == [0, *range(64, N)]
    assert list(tmp_path.iterdir()) == [out]


def test_parts_of_another_run_are_rejected(tmp_path):
    out, source = tmp_path / "costs.parquet", Counting(N)
    source.end = 100
    with pytest.raises(KeyboardInterrupt):
        tp.costs.measure(source, workers=0, out=out)
    for other, options in ((Trees(N + 1), {}), (Trees(N), {"shapes": False})):
        with pytest.raises(errors.CostError, match=r"number of examples|choice of columns"):
            tp.costs.measure(other, workers=0, out=out, **options)


def test_parts_of_a_run_that_skipped_are_raised_by_one_that_does_not(tmp_path):
    out = tmp_path / "costs.parquet"
    tp.costs.measure(Failing(N), workers=0, out=out, on_error="skip")
    kept = tmp_path / "kept"
    join = Parts.join

    def keep(self, settings):
        shutil.copytree(self.folder, kept)
        join(self, settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Parts, "join", keep)
        tp.costs.measure(Failing(N), workers=0, out=out, on_error="skip")
    shutil.copytree(kept, f"{out}.parts")
    with pytest.raises(errors.CostError, match=r"no such file 3\.png.*skipped it"):
        tp.costs.measure(Failing(N), workers=0, out=out)


def test_a_worker_that_dies_is_named_with_what_it_held(tmp_path):
    out = tmp_path / "costs.parquet"
    with pytest.raises(errors.DataError, match=r"code 7 while it measured examples 64 to 127"):
        tp.costs.measure(Dying(N), workers=2, out=out)
    assert not out.exists()


def test_a_source_that_cannot_be_sent_says_so():
    source = Trees(N)
    source.opened = lambda: None
    with pytest.raises(errors.DatasetError, match="pass workers=0"):
        tp.costs.measure(source, workers=2)
    assert rows(tp.costs.measure(source, workers=0)) == expected()


@pytest.mark.parametrize(
    ("source", "options", "says"),
    [
        ([], {}, "holds no examples"),
        (iter([1]), {}, "is an iterator"),
        (Trees(2), {"workers": -1}, "workers must be None or an integer"),
        (Trees(2), {"on_error": "ignore"}, "on_error must be one of"),
        ([Conversations([[("Q", "A")]])], {}, "pass the family of the model"),
        ([tree_of(1), tp.MessageTree([1])], {}, r"example 1: has no costs \['crops'\]"),
        ([None], {"names": ["tokens"]}, "gave None"),
    ],
)
def test_what_makes_no_sense_is_rejected(source, options, says):
    with pytest.raises(errors.TreepackError, match=says):
        tp.costs.measure(source, **{"workers": 0, **options})


def talks():
    turns = [[("What is it?", "A cat."), ("Sure?", "Yes.")], [("Its colour?", "Black.")]]
    media = [("image", tiny_models.photo(1))]
    return [Conversations(turns, media, key="cat"), Conversations(turns[:1], key="text")]


@pytest.fixture(scope="module")
def measured():
    # One of its own: what others share, another test may have changed.
    return tp.costs.measure(talks(), tiny_models.qwen3_vl_processor.__wrapped__(), workers=0)


def test_a_processor_stands_for_its_family(measured):
    family = families.find(tiny_models.qwen3_vl_processor())
    assert measured.names == ("tokens", "patches", "branches", "targets", "pairs")
    for index, example in enumerate(talks()):
        assert family.measure(example).items() <= measured[index].items()


def test_a_tree_among_records_has_a_shape_of_its_own():
    tree = tp.MessageTree([1, 2], children=[tp.MessageTree([3])] * 3, costs={"patches": 0})
    processor = tiny_models.qwen3_vl_processor()
    table = tp.costs.measure([*talks(), tree], processor, workers=0)
    assert table[2] == {"tokens": 5, "patches": 0, "branches": 3, "targets": 0, "pairs": 12}


def test_a_table_of_other_settings_is_rejected_with_both(measured):
    def dataset(**options):
        processor = tiny_models.qwen3_vl_processor.__wrapped__()
        for name, value in options.items():
            setattr(processor.image_processor, name, value)
        budgets = {"tokens": 512, "patches": 512}
        return tp.PackedDataset(talks(), processor=processor, budgets=budgets, costs=measured)

    assert [len(batch["treepack"].keys) for batch in dataset()] == [2]
    with pytest.raises(errors.CostError, match=r"image_processor.merge_size was 2 and is 4"):
        dataset(merge_size=4)
    with pytest.raises(errors.CostError, match=r"family was 'qwen3_vl' and is None"):
        tp.PackedDataset(talks(), budgets={"tokens": 512}, costs=measured)
    other = tiny_models.molmo2_processor()
    with pytest.raises(errors.CostError, match=r"family was 'qwen3_vl' and is 'molmo2'"):
        tp.PackedDataset(talks(), processor=other, budgets={"tokens": 512}, costs=measured)


def test_settings_know_the_tokenizer_and_the_template_but_no_paths(measured):
    from treepack.families.settings import describe

    processor = tiny_models.qwen3_vl_processor.__wrapped__()
    same = describe(families.find(processor))
    assert same == measured.settings == json.loads(json.dumps(measured.settings))
    assert "/" not in json.dumps(same)
    processor.tokenizer.add_tokens(["fox"])
    assert describe(families.find(processor)) != same
    processor = tiny_models.qwen3_vl_processor.__wrapped__()
    processor.chat_template = "{{ messages }}"
    assert describe(families.find(processor)) != same
    processor = tiny_models.qwen3_vl_processor.__wrapped__()
    chat = families.ChatFormat(user="Q: ", assistant=" A: ")
    assert describe(families.find(processor, chat=chat)) != same


class FakeRay(types.ModuleType):
    """What is used of Ray Data, in this process; batches come back in another order."""

    def __init__(self):
        super().__init__("ray")
        self.data = types.ModuleType("ray.data")
        self.data.range = FakeRange
        self.data.ActorPoolStrategy = lambda min_size, max_size: (min_size, max_size)

    is_initialized = staticmethod(lambda: True)
    cluster_resources = staticmethod(lambda: {"CPU": 3.0})


class FakeRange:
    def __init__(self, n, override_num_blocks):
        self.n = n

    def map_batches(self, kind, *, fn_constructor_args, batch_size, batch_format, compute):
        assert (batch_format, compute) == ("numpy", (1, 2))
        starts = range(0, self.n, batch_size)
        batches = [np.arange(a, min(a + batch_size, self.n)) for a in starts]
        call = pickle.loads(pickle.dumps(kind))(*fn_constructor_args)
        try:
            self.batches = [call({"id": batch}) for batch in reversed(batches)]
        except Exception as error:
            raise RuntimeError(f"UDF failed to process a data block: {error}") from None
        return self

    def iter_batches(self, batch_size, batch_format):
        return iter(self.batches)


@pytest.fixture
def ray(monkeypatch):
    """A fake; Ray itself is asked in test_ray.py."""
    fake = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", fake)
    monkeypatch.setitem(sys.modules, "ray.data", fake.data)


@pytest.mark.usefixtures("ray")
def test_ray_gives_the_same_table(tmp_path):
    out = tmp_path / "costs.parquet"
    table = tp.costs.measure(Failing(N), ray=True, workers=2, on_error="skip", out=out)
    here = tp.costs.measure(Failing(N), workers=0, on_error="skip")
    assert rows(table) == rows(here) == rows(tp.costs.from_parquet(out))
    np.testing.assert_array_equal(table.unmeasured, [3, 70])
    assert table.reasons == here.reasons
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.usefixtures("ray")
def test_an_error_on_a_cluster_is_raised_as_it_was():
    with pytest.raises(errors.DataError, match=r"^example (3|70): .*no such file"):
        tp.costs.measure(Failing(N), ray=True, workers=2)


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install 'treepack\[ray\]'"):
        tp.costs.measure(Trees(3), ray=True)


def test_a_bar_is_shown_where_it_is_asked_for(capsys):
    pytest.importorskip("rich")
    tp.costs.measure(Trees(N), workers=0)
    assert capsys.readouterr().err == ""
    tp.costs.measure(Trees(N), workers=0, progress=True)
    assert f"{N}/{N}" in capsys.readouterr().err
