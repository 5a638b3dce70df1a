"""Packs that were made before: served as they are, to any rank and worker, resumed anywhere."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import treepack as tp
from helpers.cases import cases
from torch.utils.data import DataLoader
from treepack import errors
from treepack.testing import check_exactly_once, check_resume_everywhere

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")
BUDGETS = {"tokens": 20}
ITERABLE = {}.values()


def trees(n=40):
    return [tp.MessageTree([1] * (1 + 7 * i % 9), labels=[1] * (1 + 7 * i % 9)) for i in range(n)]


def some_packs(source, budgets=BUDGETS, rng=None):
    """Filled one after the other, in a random order: some are far from full."""
    rng = rng or np.random.default_rng(0)
    offsets, members, used = [0], [], 0
    for index in rng.permutation(len(source)).tolist():
        if used + source[index].n_tokens > budgets["tokens"] and used:
            offsets.append(len(members))
            used = 0
        members.append(index)
        used += source[index].n_tokens
    arrays = {"offsets": [*offsets, len(members)], "members": members}
    return SimpleNamespace(**{name: np.array(array) for name, array in arrays.items()})


def lists(packs):
    parts = np.split(packs.members, packs.offsets[1:-1])
    return [part.tolist() for part in parts]


def make(packs=None, source=None, **options):
    source = trees() if source is None else source
    packs = some_packs(source) if packs is None else packs
    return tp.PackedDataset(source, packs=packs, **{"budgets": BUDGETS, **options})


def keys(stream, **options):
    loader = DataLoader(stream, batch_size=None, **options)
    return [batch["treepack"].keys for batch in loader]


def test_rows_are_the_packs_in_their_order_or_in_a_seeded_one():
    costs = {"tokens": [tree.n_tokens for tree in trees()]}
    packed = tp.pack(costs, BUDGETS, effort="best")
    assert keys(make(packed, shuffle=False)) == lists(packed)
    for rng in cases(20, "given packs"):
        source = trees(int(rng.integers(1, 60)))
        packs = some_packs(source, rng=rng)
        kept = keys(make(packs, source, shuffle=False))
        assert kept == lists(packs)
        shuffled = make(packs, source, seed=int(rng.integers(99)))
        assert sorted(keys(shuffled)) == sorted(kept)
        assert keys(shuffled) == keys(shuffled)


@pytest.mark.parametrize(("world", "workers"), [(1, 0), (1, 2), (2, 1), (3, 0)])
def test_every_rank_and_worker_has_its_part_and_its_length(world, workers):
    source = trees()
    whole = keys(make(source=source))
    ranks = [make(source=source, shard=(rank, world), epochs=2) for rank in range(world)]
    parts = [keys(rank, num_workers=workers) for rank in ranks]
    assert [len(rank) for rank in ranks] == [len(part) for part in parts]
    assert sorted(itertools.chain(*parts)) == sorted(whole * 2)
    if workers < 2:
        together = [row for step in itertools.zip_longest(*parts) for row in step if row]
        assert together[: len(whole)] == whole


def test_epochs_have_orders_of_their_own_and_can_be_set():
    stream = make(epochs=3)
    rows = keys(stream)
    n = len(stream) // 3
    each = [rows[k * n : (k + 1) * n] for k in range(3)]
    assert each[0] != each[1] != each[2]
    assert sorted(each[0]) == sorted(each[1])
    single = make()
    for epoch, expected in enumerate(each):
        single.set_epoch(epoch)
        assert keys(single) == expected
        assert keys(single, num_workers=2) == expected


def test_epochs_of_packing_on_the_fly_can_be_set_too():
    def fresh():
        return tp.PackedDataset(trees(), budgets=BUDGETS, pool_size=1)

    stream = fresh()
    first = keys(stream)
    stream.set_epoch(1)
    second = keys(stream)
    assert second != first
    assert sorted(itertools.chain(*second)) == sorted(itertools.chain(*first))
    state = stream.state_dict()
    with pytest.raises(errors.StateError, match="epoch was 1"):
        fresh().load_state_dict(state)
    stream.set_epoch(0)
    assert keys(stream) == first


@pytest.mark.parametrize("options", [{}, {"epochs": 2, "shuffle": False}, {"virtual_shards": 3}])
def test_it_resumes_everywhere(options):
    assert check_resume_everywhere(make(**options)) > 5


def test_it_resumes_with_workers():
    check_resume_everywhere(make(virtual_shards=4), num_workers=2, resume_workers=4, every=3)


class Failing(list):
    """Some examples cannot be read."""

    wrong = (3, 11, 12)

    def __getitem__(self, index):
        if index in self.wrong:
            raise OSError("gone")
        return super().__getitem__(index)


@pytest.mark.parametrize("workers", [0, 2])
def test_every_example_comes_once(workers):
    check_exactly_once(make(epochs=2, virtual_shards=2), range(40), workers)
    check_exactly_once(make(source=Failing(trees()), packs=some_packs(trees()), on_error="skip"))


def test_an_example_that_fails_is_lost_alone():
    source = Failing(trees())
    packs = some_packs(trees())
    left = [[i for i in pack if i not in Failing.wrong] for pack in lists(packs)]
    left = [pack for pack in left if pack]
    skipping = make(packs, source, shuffle=False, on_error="skip")
    rows = list(skipping)
    assert [row["treepack"].keys for row in rows] == left
    assert rows[-1]["treepack"].stats["skipped"] == len(Failing.wrong)

    raising, seen, told = iter(make(packs, source, shuffle=False)), [], []
    while True:
        try:
            seen.append(next(raising)["treepack"].keys)
        except errors.DataError as error:
            told.append(str(error))
        except StopIteration:
            break
    assert seen == left
    assert len(told) == 3
    assert all("gone" in text for text in told)


def test_a_pack_over_a_budget_is_named():
    source = trees()
    packs = some_packs(source)
    with pytest.raises(errors.BudgetError, match=r"examples of pack \d+ together have \d+ tokens"):
        keys(make(packs, source, budgets={"tokens": 12}))
    large = [tp.MessageTree([1] * 30, labels=[1] * 30), tp.MessageTree([1], labels=[1])]
    alone = SimpleNamespace(offsets=np.array([0, 1, 2]), members=np.array([1, 0]))
    with pytest.raises(errors.BudgetError, match="example 0 has 30 tokens, and the budget is 20"):
        keys(make(alone, large, shuffle=False))
    assert keys(make(alone, large, shuffle=False, oversize="drop")) == [[1]]
    rows = list(make(alone, large, shuffle=False, oversize="alone"))
    assert [row["treepack"].keys for row in rows] == [[1], [0]]
    assert rows[-1]["treepack"].stats["alone"] == 1
    costless = {"tokens": 20, "crops": 4}
    with pytest.raises(errors.CostError, match="no cost 'crops'"):
        keys(make(packs, source, budgets=costless))


def test_budgets_are_those_of_the_packs_unless_others_are_given():
    packs = some_packs(trees())
    packs.settings = {"budgets": {"tokens": 24}}
    stream = tp.PackedDataset(trees(), packs=packs)
    assert stream.budgets == {"tokens": 24}
    with pytest.raises(errors.BudgetError, match="budgets are missing"):
        tp.PackedDataset(trees())


def test_states_of_other_packs_are_rejected():
    state = make().state_dict()
    other = some_packs(trees(), rng=np.random.default_rng(1))
    with pytest.raises(errors.StateError, match="packs was"):
        make(other).load_state_dict(state)


@pytest.mark.parametrize(
    ("packs", "options", "told"),
    [
        ([[1, 2]], {}, "pass what treepack.pack gave"),
        (SimpleNamespace(offsets=np.array([0, 2]), members=np.array([0, 99])), {}, "example 99"),
        (SimpleNamespace(offsets=np.array([0, 0, 2]), members=np.array([0, 1])), {}, "must rise"),
        (SimpleNamespace(offsets=np.array([1, 2]), members=np.array([0, 1])), {}, "must rise"),
        (None, {"on_cost_mismatch": "requeue"}, "pool to wait in"),
        (None, {"source": ITERABLE}, "not read by index"),
    ],
)
def test_what_cannot_be_served_is_rejected(packs, options, told):
    packs = some_packs(trees()) if packs is None else packs
    with pytest.raises(errors.DatasetError, match=told):
        make(packs, **options)


def test_length_is_known_of_packs_alone():
    assert len(make()) == len(keys(make()))
    for unknown in (make(epochs=None), tp.PackedDataset(trees(), budgets=BUDGETS)):
        with pytest.raises(TypeError, match="not known"):
            len(unknown)
        assert unknown
    with pytest.raises(errors.DatasetError, match="epoch must be"):
        make().set_epoch(-1)
    with pytest.raises(errors.DatasetError, match="its order is its own"):
        tp.PackedDataset(ITERABLE, budgets=BUDGETS).set_epoch(1)


def test_a_budget_without_a_weight_cannot_be_balanced():
    costs = tp.costs.from_numpy([[3]] * 40, ["frames"])
    packs = tp.pack(costs, {"frames": 9})
    with pytest.raises(errors.BudgetError, match=r"unit of \['frames'\]"):
        tp.PackedDataset(trees(), packs=packs, costs=costs, balance=tp.Balance())
    weights = {"frames": 2.0}
    assert tp.PackedDataset(trees(), packs=packs, costs=costs, balance=tp.Balance(weights=weights))
