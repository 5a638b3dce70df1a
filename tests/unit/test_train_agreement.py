"""What ranks agree on in each step, with ranks that are threads and loaders that are lists."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest
import torch
import treepack as tp
from helpers.cases import cases
from helpers.simulated.ranks import SimulatedRanks
from helpers.tiny_training import labelled
from treepack import train
from treepack.errors import DatasetError, StateError
from treepack.train import gather_state, steps


def pack(key, weight=1.0):
    return tp.collate([tp.MessageTree([1, 2], labels=[-100, 2], weight=weight, key=key)])


def key_of(pack):
    return pack["treepack"].keys[0]


def weight_of(packs):
    return sum(pack["loss_weights"].sum().item() for pack in packs)


def run(monkeypatch, function, world, **options):
    """``function(rank, group)`` on each rank of a group, and the group."""
    ranks = SimulatedRanks(world, **{"group": object(), "first": 3, **options})
    monkeypatch.setattr(train, "dist", ranks)
    return ranks.run(lambda rank: function(rank, ranks.group)), ranks


def random_loaders(rng):
    """For each rank some packs; weights are multiples of 1/8, so that sums are exact."""
    return [
        [
            pack((rank, n), float(rng.integers(0, 9) * (rng.random() < 0.8)) / 8)
            for n in range(count)
        ]
        for rank, count in enumerate(rng.integers(0, 7, rng.integers(1, 4)))
    ]


def expected_steps(loaders, accumulate, end):
    """For each step with weight the packs of each rank, by the words of the docstring."""
    counts = [len(packs) // accumulate for packs in loaders]
    rounded_up = [-(-len(packs) // accumulate) for packs in loaders]
    count = min(counts) if end == "stop" else max(rounded_up)
    parts = (slice(n * accumulate, (n + 1) * accumulate) for n in range(count))
    found = [[packs[part] for packs in loaders] for part in parts]
    return [step for step in found if any(map(weight_of, step))], count


@pytest.mark.parametrize("end", ["stop", "fill"])
def test_steps_are_those_of_the_words_on_every_rank(monkeypatch, end):
    seen = {"filled": 0, "lent": 0, "silent": 0}
    for rng in cases(150, f"agreement {end}"):
        loaders, accumulate = random_loaders(rng), int(rng.integers(1, 4))
        expected, count = expected_steps(loaders, accumulate, end)
        inputs = [list(map(dict, packs)) for packs in loaders]

        def steps_of(rank, group, loaders=loaders, accumulate=accumulate):
            return list(steps(loaders[rank], accumulate, end, group))

        if count and not expected:
            with pytest.raises(DatasetError, match=f"weights of {count} steps.*sum to 0"):
                run(monkeypatch, steps_of, len(loaders))
            seen["silent"] += 1
            continue
        results, _ = run(monkeypatch, steps_of, len(loaders))
        for rank, found in enumerate(results):
            assert len(found) == len(expected)
            for (packs, weight), step in zip(found, expected, strict=True):
                own = step[rank]
                assert weight == sum(map(weight_of, step)) > 0
                assert all(one is other for one, other in zip(packs, own, strict=False))
                filled = packs[len(own) :]
                assert len(packs) == accumulate
                assert weight_of(filled) == 0
                # A rank fills with a pack of its own if it has had one.
                givers = {key_of(one)[0] for one in filled}
                assert givers <= ({rank} if loaders[rank] else set(range(len(loaders))))
                seen["filled"] += bool(filled)
                seen["lent"] += bool(filled) and not loaders[rank]
        for packs, before in zip(loaders, inputs, strict=True):
            assert all(dict(one) == other for one, other in zip(packs, before, strict=True))
    assert seen["silent"] > 0
    assert (seen["filled"] > 50) == (seen["lent"] > 10) == (end == "fill")


def test_one_meeting_makes_a_step_and_another_only_lends_packs(monkeypatch):
    loaders = [[pack(n) for n in range(5)], [pack(5)]]
    _, ranks = run(monkeypatch, lambda rank, group: list(steps(loaders[rank], 1, "fill", group)), 2)
    assert ranks.meetings == 1 + 6
    loaders = [loaders[0], []]
    _, ranks = run(monkeypatch, lambda rank, group: list(steps(loaders[rank], 1, "fill", group)), 2)
    assert ranks.meetings == 1 + 6 + 2


def test_ranks_that_read_the_same_rows_are_told_before_the_first_step(monkeypatch):
    datasets = [labelled(shard=(0, 2)), labelled(shard=(0, 2))]
    handed = []
    with pytest.raises(DatasetError, match="trained on twice"):
        run(monkeypatch, lambda rank, group: handed.extend(steps(datasets[rank], group=group)), 2)
    assert handed == []
    found, _ = run(
        monkeypatch,
        lambda rank, group: len(list(steps(labelled(shard=(rank, 2)), group=group))),
        2,
    )
    assert found[0] == found[1] > 0


def test_a_stream_that_cannot_be_resumed_can_be_trained_on():
    class Once(torch.utils.data.IterableDataset):
        def __iter__(self):
            return (tp.MessageTree([1, 2], labels=[-100, 2]) for _ in range(4))

    dataset = tp.PackedDataset(Once(), budgets={"tokens": 4})
    assert dataset.why_not_resumable is not None
    assert [weight for _, weight in steps(dataset)] == [2, 2]


def test_the_sum_of_the_weights_is_exact(monkeypatch):
    heavy = [pack(0, 2.0**24), pack(1, 1.0)]
    assert [weight for _, weight in steps(heavy, 2)] == [2**24 + 1]
    both = tp.collate([tp.MessageTree([1, 2], labels=[-100, 2], weight=w) for w in (2.0**24, 1.0)])
    assert [weight for _, weight in steps([both])] == [2**24 + 1]


@pytest.mark.parametrize(
    ("backend", "device"),
    [("gloo", "cpu"), ("nccl", "cuda"), ("cpu:gloo,cuda:nccl", "cpu"), ("mpi", "cpu")],
)
def test_ranks_agree_on_a_device_that_their_backend_has(monkeypatch, backend, device):
    devices = set()

    def tensor(data, dtype, device):
        devices.add(device)
        return torch.tensor(data, dtype=dtype)

    monkeypatch.setattr(train, "torch", SimpleNamespace(tensor=tensor, float64=torch.float64))
    loaders = [[pack(0)], [pack(1)]]
    found, _ = run(monkeypatch, lambda rank, group: list(steps(loaders[rank], group=group)), 2,
                   backend=backend)  # fmt: skip
    assert [[weight for _, weight in one] for one in found] == [[2.0], [2.0]]
    assert devices == {device}


@pytest.mark.parametrize("place", [0, 2])
def test_a_loader_that_fails_is_an_error_on_every_rank_at_the_same_step(monkeypatch, place):
    def broken():
        yield from (pack(n) for n in range(place))
        raise OSError("the disk is gone")

    loaders = [[pack(n) for n in range(9)], broken(), [pack(n) for n in range(9)]]
    made = [0, 0, 0]

    def outcome(rank, group):
        try:
            for _ in steps(loaders[rank], group=group):
                made[rank] += 1
        except (OSError, DatasetError) as error:
            return str(error)

    found, _ = run(monkeypatch, outcome, 3)
    assert found[1] == "the disk is gone"
    assert found[0] == found[2]
    assert "1 other ranks failed" in found[0]
    assert made == [place] * 3


def test_weightless_steps_are_counted_from_the_last_that_had_weight():
    light, heavy = pack("light", 0.0), pack("heavy")
    some = [heavy, *[light] * 999, heavy, *[light] * 999]
    assert [key_of(packs[0]) for packs, _ in steps(some)] == ["heavy", "heavy"]
    loader = iter([heavy, *[light] * 2000])
    with pytest.raises(DatasetError, match="1000 steps"):
        list(steps(loader))
    assert len(list(loader)) == 1000
    with pytest.raises(DatasetError, match="of 3 steps"):
        list(steps([light] * 3))
    with pytest.raises(DatasetError, match="of 1 steps"):
        list(steps([light]))


def test_alone_steps_stop_at_the_last_full_one_or_fill_it():
    packs = [pack(n) for n in range(5)]
    assert [len(step) for step, _ in steps(packs, 2)] == [2, 2]
    *_, (last, weight) = steps(packs, 2, end="fill")
    assert ([key_of(one) for one in last], weight, weight_of(last[1:])) == ([4, 4], 1, 0)


def states_of(world, seen=3):
    datasets = [labelled(shard=(rank, world)) for rank in range(world)]
    for dataset in datasets:
        list(itertools.islice(dataset, seen))
    return datasets


def test_the_gathered_state_is_the_merged_one_on_every_rank(monkeypatch):
    datasets = states_of(2)
    expected = tp.state.merge([dataset.state_dict() for dataset in datasets])
    found, _ = run(monkeypatch, lambda rank, group: gather_state(datasets[rank], group), 2)
    assert found == [expected, expected]
    monkeypatch.undo()
    alone = states_of(1)[0]
    assert gather_state(alone) == tp.state.merge([alone.state_dict()])


def test_a_rank_without_a_state_is_named_on_all(monkeypatch):
    class Stateless:
        def state_dict(self):
            raise OSError("no such state")

    datasets = [states_of(1)[0], Stateless(), Stateless()]

    def outcome(rank, group):
        try:
            return gather_state(datasets[rank], group)
        except (OSError, StateError) as error:
            return str(error)

    found, _ = run(monkeypatch, outcome, 3)
    assert "ranks [1, 2] could not give their state" in found[0]
    assert found[1:] == ["no such state"] * 2
