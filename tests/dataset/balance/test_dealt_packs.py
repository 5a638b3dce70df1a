"""Packs that are dealt to ranks: the same steps for all, each example once, resumed anywhere."""

from __future__ import annotations

import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest
import treepack as tp
from helpers.cases import cases
from helpers.tree_sources import MeasuredTrees, TreeStream, names
from torch.utils.data import DataLoader
from treepack import errors
from treepack.dataset.state import window_of
from treepack.testing import (
    assert_batches_equal,
    check_exactly_once,
    check_resume_everywhere,
    check_same_packs_for_any_topology,
)

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")
BUDGETS = {"tokens": 64, "crops": 8}
KINDS = ("fly", "shards", "packs")


class Failing(MeasuredTrees):
    """Some examples cannot be loaded, though their costs are known; it notes what is."""

    def __init__(self, n, wrong=()):
        super().__init__(n)
        self.wrong, self.loaded = wrong, []

    def load(self, index):
        self.loaded.append(index)
        if index in self.wrong:
            raise OSError("gone")
        return super().load(index)


def make(kind="fly", rank=0, ranks=1, source=None, n=160, **options):
    source = MeasuredTrees(n) if source is None else source
    settings = {"pool_size": 6, "seed": 3, "balance": tp.Balance(), **options}
    if kind == "shards":
        settings["virtual_shards"] = settings.get("virtual_shards", 3)
    if kind == "packs":
        costs = [list(source.measure(i).values()) for i in range(len(source))]
        settings["costs"] = tp.costs.from_numpy(costs, list(source.measure(0)))
        settings["packs"] = tp.pack(settings["costs"], BUDGETS, early=False)
    return tp.PackedDataset(source, budgets=BUDGETS, shard=(rank, ranks), **settings)


def read(dataset, workers=0):
    return list(DataLoader(dataset, batch_size=None, num_workers=workers))


def keys(rows):
    return [tuple(row["treepack"].keys) for row in rows]


def flat(lists):
    return list(itertools.chain(*lists))


def all_ranks(ranks, state=None, workers=0, **options):
    """The rows of all ranks, perhaps from a state on."""
    found = []
    for rank in range(ranks):
        dataset = make(rank=rank, ranks=ranks, **options)
        if state is not None:
            dataset.load_state_dict(state)
        found.append(read(dataset, workers))
    return found


def steps(ranks, accumulate):
    """The set of packs of each step; the last one may be smaller."""
    most = max(map(len, ranks))
    return [
        {key for rows in ranks for key in keys(rows[start : start + accumulate])}
        for start in range(0, most, accumulate)
    ]


def state_after(number, ranks, accumulate, **options):
    """The state of all ranks after some steps."""
    states = []
    for rank in range(ranks):
        dataset = make(rank=rank, ranks=ranks, **options)
        list(itertools.islice(dataset, number * accumulate))
        states.append(dataset.state_dict())
    merged = tp.state.merge(states)
    assert all(state == merged for state in states)
    return json.loads(json.dumps(merged))


@pytest.mark.parametrize("sync", ["step", "micro"])
@pytest.mark.parametrize("kind", KINDS)
def test_steps_depend_on_their_size_the_window_and_the_seed_alone(kind, sync):
    def of(ranks, accumulate, seed=3):
        balance = tp.Balance(accumulate, window=3, sync=sync)
        rows = all_ranks(ranks, kind=kind, balance=balance, seed=seed, epochs=2)
        assert {len(each) for each in rows} <= {len(rows[0]), len(rows[0]) - 1}
        return steps(rows, accumulate)

    whole = of(1, 8)
    assert len(whole) > 8
    for ranks, accumulate in ((2, 4), (4, 2), (8, 1)):
        assert of(ranks, accumulate) == whole
    assert of(4, 2, seed=4) != whole


@pytest.mark.parametrize("kind", KINDS)
def test_ranks_finish_together_and_packs_are_those_that_come_without(kind):
    plain = all_ranks(4, kind=kind, balance=None, virtual_shards=4, n=600)
    one = read(make(kind, balance=None, n=600))
    dealt = all_ranks(4, kind=kind, n=600, balance=tp.Balance(4))
    assert sorted(flat(map(keys, dealt))) == sorted(keys(one))

    def imbalance(ranks):
        # Pools run empty at the end, where packs are of all sizes.
        n = min(map(len, ranks)) // 4 * 4 - 4
        tokens = [[row["treepack"].stats["tokens"] for row in rows[:n]] for rows in ranks]
        loads = np.array(tokens).reshape(4, -1, 4).sum(2)
        return (loads.max(0) / loads.mean(0) - 1).mean()

    weights = {"crops": 0.0, "pairs": 0.0}
    by_tokens = all_ranks(4, kind=kind, n=600, balance=tp.Balance(4, weights=weights))
    # Of packs made before, nearly all are full, and a few nearly empty.
    assert imbalance(by_tokens) < (0.8 if kind == "packs" else 0.3) * imbalance(plain)


@pytest.mark.parametrize("workers", [0, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_every_example_comes_once(kind, workers):
    check_exactly_once(make(kind, epochs=2), names(160), workers)
    check_exactly_once(make(kind, balance=tp.Balance(3, 2)), names(160), workers)
    found = all_ranks(3, kind=kind, balance=tp.Balance(2), workers=workers)
    assert sorted(itertools.chain(*flat(map(keys, found)))) == sorted(names(160))


@pytest.mark.parametrize("kind", KINDS)
def test_it_resumes_everywhere(kind):
    for balance in (tp.Balance(2, 3), tp.Balance(), tp.Balance(3, sync="micro")):
        assert check_resume_everywhere(make(kind, balance=balance, epochs=2, n=60)) > 8
    check_resume_everywhere(make(kind, rank=1, ranks=2), every=3)
    check_resume_everywhere(make(kind, rank=1, ranks=2), num_workers=2, every=7)
    check_resume_everywhere(make(kind), num_workers=2, resume_workers=3, every=9)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_rows_do_not_depend_on_workers(workers):
    for ranks, balance in ((1, tp.Balance(2, 3)), (2, tp.Balance())):
        plain = all_ranks(ranks, balance=balance)
        shared = all_ranks(ranks, balance=balance, workers=workers)
        for one, other in zip(flat(plain), flat(shared), strict=True):
            assert_batches_equal(one, other)


WAYS = [(1, 8), (2, 4), (4, 2), (8, 1), (1, 4), (2, 1), (3, 2)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_job_goes_on_with_other_ranks_and_steps(kind):
    for rng in cases(6, f"elastic {kind}"):
        (ranks, each), (others, again) = (WAYS[i] for i in rng.choice(len(WAYS), 2, replace=False))
        window, n = int(rng.integers(1, 5)), int(rng.integers(60, 160))
        before, after = (
            {"kind": kind, "n": n, "balance": tp.Balance(m, window)} for m in (each, again)
        )
        whole = steps(all_ranks(ranks, **before), each)
        number = int(rng.integers(0, len(whole)))
        state = state_after(number, ranks, each, **before)
        rest = all_ranks(others, state, **after)
        assert {len(rows) for rows in rest} <= {len(rest[0]), len(rest[0]) - 1}
        found = steps(rest, again)
        if ranks * each == others * again:
            assert found == whole[number:]
            continue
        assert sorted(itertools.chain(*found)) == sorted(itertools.chain(*whole[number:]))
        # What was left of the window comes before anything new.
        left = set().union(*whole[number : -(-number // window) * window])
        first = -(-len(left) // (others * again))
        assert left <= set().union(*found[:first])
        assert all(len(step) == others * again for step in found[:-1])


def test_steps_of_other_sizes_one_after_the_other_lose_nothing():
    for rng in cases(10, "resumed often"):
        state, seen, kind = None, [], str(rng.choice(KINDS))
        for turn in range(7):
            ranks, each = WAYS[int(rng.integers(len(WAYS)))]
            options = {"kind": kind, "balance": tp.Balance(each, int(rng.integers(1, 4)))}
            states, number = [], int(rng.integers(0, 4)) * each
            for rank in range(ranks):
                dataset = make(rank=rank, ranks=ranks, **options)
                if state is not None:
                    dataset.load_state_dict(state)
                stop = None if turn == 6 else number
                seen += keys(itertools.islice(dataset, stop))
                states.append(dataset.state_dict())
            state = json.loads(json.dumps(tp.state.merge(states)))
        assert sorted(itertools.chain(*seen)) == sorted(names(160))


def test_a_state_in_the_middle_of_a_step_goes_on_there():
    dataset = make(balance=tp.Balance(4, 2))
    rows = read(dataset)
    list(itertools.islice(dataset, 6))
    state = dataset.state_dict()
    for ranks, balance in ((1, tp.Balance(4, 2)), (2, tp.Balance(2, 2)), (3, tp.Balance())):
        found = flat(map(keys, all_ranks(ranks, state, balance=balance)))
        assert sorted(found) == sorted(keys(rows[6:]))


def test_the_check_of_topologies_says_that_ranks_count():
    with pytest.raises(errors.DatasetError, match="depends on the number of ranks"):
        check_same_packs_for_any_topology(make(), [(2, 0)])


def test_each_process_loads_its_own_rows_alone():
    for rank in range(2):
        source = Failing(100)
        rows = read(make(rank=rank, ranks=2, source=source, balance=tp.Balance(2)))
        own = [int(key.split()[1]) for key in itertools.chain(*keys(rows))]
        assert source.loaded == own
        assert len(own) < 70


def wrong_of_whole_packs():
    """Examples of three whole packs, and one of another."""
    packs = keys(read(make()))
    chosen = [packs[2], packs[9], packs[10], packs[20][:1]]
    return [int(key.split()[1]) for pack in chosen for key in pack], len(packs)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_pack_of_which_nothing_can_be_loaded_becomes_a_row_without_weight(workers):
    wrong, count = wrong_of_whole_packs()
    for balance in (tp.Balance(2, 3), tp.Balance()):
        options = {"balance": balance, "on_error": "skip"}
        ranks = all_ranks(3, source=Failing(160, wrong), workers=workers, **options)
        whole = all_ranks(3, balance=balance)
        assert sum(map(len, ranks)) == count
        fillers = 0
        for row, expected in zip(flat(ranks), flat(whole), strict=True):
            left = [k for k in expected["treepack"].keys if int(k.split()[1]) not in wrong]
            assert row["treepack"].keys == left
            stats = row["treepack"].stats
            assert stats["lost"] == len(expected["treepack"].keys) - len(left)
            assert stats["filler"] == (not left)
            if not left:
                fillers += 1
                assert row["loss_weights"].sum() == 0
                assert stats["examples"] == stats["branches"] == stats["targets"] == 0
        assert fillers == 3
        statistics = tp.train.Statistics()
        statistics.add(flat(ranks))
        report = statistics.report()
        assert report["treepack/fillers_total"] == 3
        assert report["treepack/skipped_total"] == len(wrong)


@pytest.mark.parametrize("kind", KINDS)
def test_failures_resume_and_are_counted(kind):
    wrong, _ = wrong_of_whole_packs()
    failing = make(kind, source=Failing(160, wrong), on_error="skip", balance=tp.Balance(2, 2))
    check_exactly_once(failing)
    check_exactly_once(failing, num_workers=2)
    check_resume_everywhere(failing, every=4)


def test_after_an_error_the_rest_of_the_row_comes():
    wrong, count = wrong_of_whole_packs()
    stream, rows, told = iter(make(source=Failing(160, wrong))), [], 0
    while True:
        try:
            rows.append(next(stream))
        except errors.DataError as error:
            told += "gone" in str(error)
        except StopIteration:
            break
    assert (len(rows), told) == (count, len(wrong))
    assert sum(not row["treepack"].keys for row in rows) == 3


def test_rows_that_cannot_be_joined_become_fillers():
    class Unlike(MeasuredTrees):
        def load(self, index):
            tree = super().load(index)
            if index % 40 == 7:
                media = {"pixels": np.zeros((1, 9), np.float32)}
                return tp.MessageTree(
                    tree.tokens,
                    children=tree.children,
                    key=tree.key,
                    costs=tree.costs,
                    media=media,
                )
            return tree

    rows = read(make(source=Unlike(160), on_error="skip"))
    assert len(rows) == len(read(make()))
    assert 0 < sum(row["treepack"].stats["filler"] for row in rows) <= 4
    check_exactly_once(make(source=Unlike(160), on_error="skip"))


def test_an_endless_stream_of_failures_ends():
    source = Failing(40, range(40))
    stream = make(source=source, on_error="skip", epochs=None)
    with pytest.raises(errors.DatasetError, match="examples in succession were skipped"):
        read(stream)


def test_examples_over_a_budget_are_counted_once_for_all():
    costs = tp.costs.from_numpy([[9], [99], [30], [70], [20]], ["tokens"])
    source = [tp.MessageTree([1] * n, labels=[1] * n) for n in (9, 99, 30, 70, 20)]
    packs = SimpleNamespace(offsets=np.array([0, 1, 2, 3, 5]), members=np.array([3, 1, 2, 0, 4]))
    for given in (None, packs):
        for policy, counter in (("drop", "dropped"), ("alone", "alone")):
            rows = [
                row["treepack"]
                for rank in range(2)
                for row in tp.PackedDataset(
                    source,
                    costs=costs,
                    packs=given,
                    budgets={"tokens": 64},
                    oversize=policy,
                    balance=tp.Balance(),
                    shard=(rank, 2),
                )
            ]
            assert all(row.stats[counter] == 2 for row in rows)
            assert sum(row.stats["lost"] for row in rows) == 0
            count = 5 if policy == "alone" else 3
            assert len({key for row in rows for key in row.keys}) == count


def test_states_are_those_of_one_step():
    one, other = (make(rank=rank, ranks=2, balance=tp.Balance(2)) for rank in range(2))
    list(itertools.islice(one, 2))
    list(itertools.islice(other, 4))
    with pytest.raises(errors.StateError, match="not after the same step"):
        tp.state.merge([one.state_dict(), other.state_dict()])
    with pytest.raises(errors.StateError, match="balance was None and is"):
        make().load_state_dict(make(balance=None, virtual_shards=1).state_dict())
    sync = make(balance=tp.Balance(sync="micro"))
    with pytest.raises(errors.StateError, match="balance was"):
        sync.load_state_dict(make().state_dict())
    state = one.state_dict()
    state["window"][1][3] -= 1
    with pytest.raises(errors.StateError, match="contradicts itself"):
        make(rank=0, ranks=2, balance=tp.Balance(2)).load_state_dict(state)
    assert window_of(make().state_dict()) is None


def test_consumed_batches_are_counted_with_workers():
    dataset = make(balance=tp.Balance(2, 3))
    rows = read(dataset)
    loader = DataLoader(dataset, batch_size=None, num_workers=3)
    for row in itertools.islice(loader, 7):
        dataset.consumed(row)
    state = dataset.state_dict()
    dataset.consumed(row)
    assert dataset.state_dict() == state
    again = make(balance=tp.Balance(2, 3))
    again.load_state_dict(state)
    assert keys(read(again, 2)) == keys(rows[7:])


def test_steps_are_of_the_size_that_is_dealt():
    packs, _ = next(tp.train.steps(make(balance=tp.Balance(2)), accumulate=2))
    assert len(packs) == 2
    with pytest.raises(errors.DatasetError, match="balanced for accumulate=2"):
        next(tp.train.steps(make(balance=tp.Balance(2))))
    told = [
        make(rank=rank, ranks=2, balance=tp.Balance(1, 2 + rank)).settings.introduce()
        for rank in range(2)
    ]
    assert told[0].digest != told[1].digest


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"source": TreeStream(9)}, "not read by index"),
        ({"source": [tp.MessageTree([1])]}, "does not know their costs; pass costs="),
        ({"on_cost_mismatch": "requeue"}, "would change them in one process alone"),
        ({"balance": 2}, "must be a treepack.Balance"),
    ],
)
def test_what_cannot_be_dealt_is_rejected(options, told):
    with pytest.raises(errors.DatasetError, match=told):
        make(**options)
