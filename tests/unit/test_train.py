"""Steps over ranks: nobody hangs, every weight counts once and the same."""

from __future__ import annotations

import itertools

import pytest
import torch
import treepack as tp
from helpers.processes.ranks import run_ranks
from helpers.tiny_training import RATE, Labelled, Tiny, labelled, train
from helpers.tree_sources import BUDGETS
from torch.utils.data import DataLoader
from treepack import errors
from treepack.train import gather_state, steps

WORLD = 2


def parameters(model):
    full = [getattr(p, "full_tensor", lambda p=p: p)() for p in model.parameters()]
    return [p.detach().clone() for p in full]


def train_rank(rank, world, kind, accumulate, end):
    stream = labelled(shard=(rank, world))
    model = Tiny()
    if kind == "ddp":
        model = torch.nn.parallel.DistributedDataParallel(model)
    else:
        from torch.distributed.fsdp import fully_shard

        fully_shard(model)
    loader = DataLoader(stream, batch_size=None, num_workers=rank)
    seen = train(model, loader, world, accumulate=accumulate, end=end)
    return seen, parameters(model), gather_state(stream)


def reference(accumulate, end):
    """The same in one process: the ranks' packs of a step, side by side."""
    ranks = [list(labelled(shard=(rank, WORLD))) for rank in range(WORLD)]
    lengths = [len(packs) // accumulate for packs in ranks]
    count = min(lengths) if end == "stop" else max(-(-len(packs) // accumulate) for packs in ranks)
    model = Tiny()
    optimizer = torch.optim.SGD(model.parameters(), RATE)
    for n in range(count):
        part = slice(n * accumulate, (n + 1) * accumulate)
        packs = list(itertools.chain(*(packs[part] for packs in ranks)))
        weight = sum(pack["loss_weights"].double().sum() for pack in packs)
        for pack in packs:
            model(pack, weight).backward()
        optimizer.step()
        optimizer.zero_grad()
    return count, parameters(model)


CASES = [("ddp", 3, "stop"), ("ddp", 4, "fill"), ("fsdp2", 2, "fill")]
FAILURES = {
    "broken": ("1 other ranks failed", "disk is gone"),
    "weightless": ("sum to 0", "sum to 0"),
    "unopened": ("1 other ranks failed", "no such disk"),
    "stateless": ("ranks [1] could not give their state", "no such state"),
}


def run_rank(rank, world):
    trained = [train_rank(rank, world, *case) for case in CASES]
    failed = {case: fail_rank(rank, world, case) for case in FAILURES}
    return trained, failed, fill_rank(rank, world), resume_rank(rank, world)


@pytest.fixture(scope="module")
def outcomes():
    """What each rank saw, in one pair of processes for all cases."""
    return run_ranks(WORLD, run_rank)


@pytest.mark.parametrize("case", range(len(CASES)), ids=str)
def test_two_ranks_train_like_one_process(outcomes, case):
    _, accumulate, end = CASES[case]
    ranks = [trained[case] for trained, *_ in outcomes]
    count, expected = reference(accumulate, end)
    states = [state for _, _, state in ranks]
    assert states[0] == states[1]
    for seen, got, _ in ranks:
        assert len(seen) == count
        for one, other in zip(got, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    keys = [key for seen, _, _ in ranks for packs in seen for pack in packs for key in pack]
    assert len(keys) == len(set(keys))
    if end == "fill":
        assert sorted(keys) == list(range(60))
    # What was not trained on comes after the merged state, and nothing else.
    rest = labelled(shard=(0, 1))
    rest.load_state_dict(states[0])
    left = [key for batch in rest for key in batch["treepack"].keys]
    assert sorted(keys + left) == list(range(60))


class Broken(Labelled):
    def __getitem__(self, index):
        if index == 7:
            raise OSError("the disk is gone")
        return super().__getitem__(index)


class Weightless(Labelled):
    def __getitem__(self, index):
        return tp.MessageTree([1, 2], costs={"crops": 0})


class Unopened:
    """A loader that cannot even begin, a dataset that cannot say where it stands."""

    def __iter__(self):
        raise OSError("no such disk")

    def state_dict(self):
        raise OSError("no such state")


def fail_rank(rank, world, case):
    source = {"broken": Broken if rank else Labelled, "weightless": Weightless}.get(case, Labelled)
    stream = tp.PackedDataset(
        source(60), budgets=BUDGETS, shard=(rank, world), pool_size=6, shuffle=False
    )
    stream = Unopened() if rank and case in ("unopened", "stateless") else stream
    try:
        if case == "stateless":
            gather_state(stream)
        list(steps(stream))
    except (errors.TreepackError, OSError) as error:
        return str(error)
    return "no error"


@pytest.mark.parametrize("case", FAILURES)
def test_what_fails_on_one_rank_is_an_error_on_all(outcomes, case):
    for (_, texts, *_), says in zip(outcomes, FAILURES[case], strict=True):
        assert says in texts[case]


def keys_and_weights(stepping):
    return [[(pack["treepack"].keys, _weight(pack)) for pack in packs] for packs, _ in stepping]


def _weight(pack):
    return pack["loss_weights"].sum().item()


def fill_rank(rank, world):
    """One example for two ranks."""
    stream = labelled(n=1, shard=(rank, world))
    return keys_and_weights(steps(stream, accumulate=2, end="fill"))


def test_a_rank_that_never_had_a_pack_gets_one_to_fill_with(outcomes):
    (first, second), (third, fourth) = (filled[0] for _, _, filled, _ in outcomes)
    assert all(len(filled) == 1 for _, _, filled, _ in outcomes)
    assert [first[0], second[0], third[0], fourth[0]] == [[0]] * 4
    assert first[1] > 0
    assert second[1] == third[1] == fourth[1] == 0


def resume_rank(rank, world):
    """Rank 1 has fewer packs; each stops after each of its steps and goes on from there."""

    def make():
        return labelled(n=9 if rank else 40, shard=(rank, world), virtual_shards=2)

    whole, runs = keys_and_weights(steps(make(), end="fill")), []
    for n in range(len(whole)):
        stream = make()
        stepping = steps(stream, end="fill")
        seen = keys_and_weights(itertools.islice(stepping, n))
        state, stream = stream.state_dict(), make()
        stream.load_state_dict(state)
        runs.append([*seen, *keys_and_weights(steps(stream, end="fill"))])
    return whole, runs


def test_filled_steps_resume_anywhere(outcomes):
    def weighted(step):
        # What a place is filled with carries no weight, so it may be another pack.
        return [pack for pack in step if pack[1] > 0]

    lengths = []
    for *_, (whole, runs) in outcomes:
        assert [len(run) for run in runs] == [len(whole)] * len(whole)
        expected = list(map(weighted, whole))
        assert all(list(map(weighted, run)) == expected for run in runs)
        lengths.append(sum(map(bool, expected)))
    assert lengths[0] > lengths[1] > 0


def test_the_state_before_the_first_step_is_the_start():
    """However much a loader has read by then, and if there is no step at all."""

    class Late(Labelled):
        def __getitem__(self, index):
            return {}["missing"] if index == 30 else super().__getitem__(index)

    def make(source):
        return tp.PackedDataset(source, budgets=BUDGETS, pool_size=6, shuffle=False)

    for workers in (0, 2):
        stream = make(Late(60))
        with pytest.raises(errors.DataError, match="missing"):
            list(steps(DataLoader(stream, batch_size=None, num_workers=workers), accumulate=40))
        assert stream.state_dict() == make(Late(60)).state_dict()
        short = make(Labelled(10))
        assert list(steps(DataLoader(short, batch_size=None, num_workers=workers), 99)) == []
        assert short.state_dict() == make(Labelled(10)).state_dict()


def test_a_pack_that_is_counted_twice_counts_once():
    stream = labelled(virtual_shards=2)
    loader = DataLoader(stream, batch_size=None, num_workers=2)
    done = 0
    for packs, _ in itertools.islice(steps(loader), 5):
        for pack in packs:
            stream.consumed(pack)
            done += 1
    rest = labelled()
    rest.load_state_dict(stream.state_dict())
    whole = [batch["treepack"].keys for batch in labelled(virtual_shards=2)]
    assert [batch["treepack"].keys for batch in rest] == whole[done:]


def test_a_cancelled_step_is_not_consumed():
    stream = labelled()
    seen = train(Tiny(), stream, accumulate=4)
    rest = labelled()
    rest.load_state_dict(stream.state_dict())
    left = [batch["treepack"].keys for batch in rest]
    assert 0 < len(left) < 4
    assert [keys for step in seen for keys in step] + left == [
        batch["treepack"].keys for batch in labelled()
    ]


def test_steps_without_weight_are_skipped():
    """And counted as consumed; but not for ever."""
    plain = [tp.MessageTree([1, 2], key=f"plain {i}", costs={"crops": 0}) for i in range(3)]
    trained = [tp.MessageTree([1, 2], labels=[1, 2], key=i, costs={"crops": 0}) for i in range(2)]

    def make(source, **options):
        options = {"budgets": {"tokens": 2, "crops": 1}, "shuffle": False, **options}
        return tp.PackedDataset(source, **options)

    stream = make([plain[0], trained[0], *plain[1:], trained[1], plain[0]])
    seen = [pack["treepack"].keys for packs, _ in steps(stream) for pack in packs]
    assert seen == [[0], [1]]
    rest = make(stream.source)
    rest.load_state_dict(stream.state_dict())
    assert list(rest) == []
    with pytest.raises(errors.DatasetError, match=r"1000 steps.*labels"):
        list(steps(make(plain, epochs=None)))
    assert list(steps([])) == []


def test_inputs_of_a_filled_step_are_not_modified():
    packs = list(labelled(n=12))
    sums = [pack["loss_weights"].sum().item() for pack in packs]
    list(steps(packs, accumulate=len(packs) + 2, end="fill"))
    assert [pack["loss_weights"].sum().item() for pack in packs] == sums


@pytest.mark.parametrize("options", [{"accumulate": 0}, {"accumulate": "2"}, {"end": "drop"}])
def test_settings_that_cannot_work_are_rejected(options):
    with pytest.raises(errors.DatasetError, match="accumulate"):
        next(steps([], **options))
