"""The public checks find what they are for: streams that lose, repeat or reorder."""

from __future__ import annotations

import itertools

import pytest
import treepack as tp
from helpers.tree_sources import BUDGETS, Trees, names
from treepack.testing import (
    check_exactly_once,
    check_resume_everywhere,
    check_same_packs_for_any_topology,
)

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")
N = 60


class Altered(tp.PackedDataset):
    """A stream in which something happens to the packs on their way."""

    change = staticmethod(iter)

    def __iter__(self):
        return self.change(super().__iter__())


def stream(change=iter, source=None, **options):
    settings = {"budgets": BUDGETS, "pool_size": 6, "virtual_shards": 2, **options}
    made = Altered(source or Trees(N), **settings)
    made.change = change
    return made


def every_second(packs):
    return itertools.islice(packs, 0, None, 2)


def without_the_third(packs):
    return (pack for n, pack in enumerate(packs) if n != 2)


def twice(packs):
    return itertools.chain.from_iterable((pack, pack) for pack in packs)


class Unreadable(Trees):
    """Some examples fail, one of them after the last pack of its shard."""

    BAD = (3, 17, N - 1)

    def __getitem__(self, index):
        if index in self.BAD:
            raise OSError("the disk is gone")
        return super().__getitem__(index)


@pytest.mark.parametrize("on_error", ["raise", "skip"])
@pytest.mark.parametrize("keys", [None, names(N)], ids=["counted", "compared"])
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("change", [every_second, without_the_third, twice])
def test_a_pack_that_is_lost_or_comes_twice_is_found(change, workers, keys, on_error):
    with pytest.raises(AssertionError):
        check_exactly_once(stream(change, on_error=on_error), keys, workers)


@pytest.mark.parametrize("keys", [None, names(N)], ids=["counted", "compared"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_that_loses_nothing_passes(workers, keys):
    check_exactly_once(stream(), keys, workers)
    source = Unreadable(N)
    good = keys and [name for i, name in enumerate(keys) if i not in source.BAD]
    check_exactly_once(stream(source=source, on_error="skip"), good, workers)


def test_an_example_too_many_is_named():
    with pytest.raises(AssertionError, match=r"1 examples came too often, such as .*example 59"):
        check_exactly_once(stream(), names(N - 1))
    with pytest.raises(AssertionError, match=r"1 examples were lost, such as .*example 60"):
        check_exactly_once(stream(), names(N + 1))


@pytest.mark.parametrize("workers", [0, 2])
def test_packs_that_come_in_another_order_after_a_resume_are_found(workers):
    def swapped(packs):
        # The first two packs of any iteration change places.
        first = list(itertools.islice(packs, 2))
        return itertools.chain(reversed(first), packs)

    check_resume_everywhere(stream(), num_workers=workers, every=5)
    with pytest.raises(AssertionError, match="resumed after"):
        check_resume_everywhere(stream(swapped), num_workers=workers, every=5)
    with pytest.raises(AssertionError):
        check_same_packs_for_any_topology(stream(swapped), [(2, workers // 2)])
