"""Steps over ranks: nobody hangs, every weight counts once and the same."""

from __future__ import annotations

import itertools

import pytest
import torch
import treepack as tp
from ranks import run_ranks
from tiny_training import RATE, Labelled, Tiny, labelled, train
from torch.utils.data import DataLoader
from tree_sources import BUDGETS
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
    "empty": ("1 ranks have no pack", "1 ranks have no pack"),
}


def run_rank(rank, world):
    trained = [train_rank(rank, world, *case) for case in CASES]
    return trained, {case: fail_rank(rank, world, case) for case in FAILURES}


@pytest.fixture(scope="module")
def outcomes():
    """What each rank saw, in one pair of processes for all cases."""
    return run_ranks(WORLD, run_rank)


@pytest.mark.parametrize("case", range(len(CASES)), ids=str)
def test_two_ranks_train_like_one_process(outcomes, case):
    _, accumulate, end = CASES[case]
    ranks = [trained[case] for trained, _ in outcomes]
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


def fail_rank(rank, world, case):
    n, source, end = {
        "broken": (60, Broken if rank else Labelled, "stop"),
        "weightless": (60, Weightless, "stop"),
        "empty": (1, Labelled, "fill"),
    }[case]
    stream = tp.PackedDataset(
        source(n), budgets=BUDGETS, shard=(rank, world), pool_size=6, shuffle=False
    )
    try:
        for _ in steps(stream, end=end):
            pass
    except errors.TreepackError as error:
        return str(error)
    return "no error"


@pytest.mark.parametrize("case", FAILURES)
def test_what_fails_on_one_rank_is_an_error_on_all(outcomes, case):
    for (_, texts), says in zip(outcomes, FAILURES[case], strict=True):
        assert says in texts[case]


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


def test_inputs_of_a_filled_step_are_not_modified():
    packs = list(labelled(n=12))
    sums = [pack["loss_weights"].sum().item() for pack in packs]
    list(steps(packs, accumulate=len(packs) + 2, end="fill"))
    assert [pack["loss_weights"].sum().item() for pack in packs] == sums


@pytest.mark.parametrize("options", [{"accumulate": 0}, {"end": "drop"}])
def test_settings_that_cannot_work_are_refused(options):
    with pytest.raises(errors.DatasetError, match="accumulate"):
        next(steps([], **options))
