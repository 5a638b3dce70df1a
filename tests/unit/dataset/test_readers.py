"""Readers: each shard gets its own positions, and an iterable is read again from its bookmarks."""

from __future__ import annotations

import itertools
import json

import pytest
import treepack as tp
from helpers.cases import cases
from helpers.tree_sources import BUDGETS, SavedStream, Trees, WholeSavedStream, tree_of
from treepack import errors
from treepack.dataset.shards.iterables import (
    BOOKMARK_EVERY,
    Bookmark,
    BookmarkedIterable,
    BrokenSourceError,
    ResumePoint,
    Splitter,
    Unreadable,
)
from treepack.dataset.shards.readers import make_readers
from treepack.sources.protocol import draw


def settings_of(source, **options):
    return tp.PackedDataset(source, budgets=BUDGETS, **options).settings


def points(shards, owned=None):
    return {shard: ResumePoint.of(shard, None) for shard in owned or range(shards)}


def positions_of(reader):
    return [arrival.position for arrival in iter(lambda: next(reader, None), None)]


@pytest.mark.parametrize("source", [Trees, SavedStream, WholeSavedStream])
def test_shards_share_the_stream_without_rest(source):
    for shards in (1, 2, 3):
        readers = make_readers(settings_of(source(20)), points(shards), shards)
        found = {shard: positions_of(reader) for shard, reader in readers.items()}
        assert found == {shard: list(range(shard, 20, shards)) for shard in range(shards)}
        for shard, reader in readers.items():
            assert reader.position % shards == shard
            assert reader.position >= 20


class Files(SavedStream):
    """Cannot be cut into more parts than there are files."""

    num_shards = 3


def test_a_source_is_cut_into_as_many_parts_as_it_has_files_and_no_more():
    for shards, parts in ((1, 1), (3, 3), (4, 1), (6, 1)):
        readers = make_readers(settings_of(Files(20)), points(shards), shards)
        assert len({id(reader.splitter) for reader in readers.values()}) == parts
        for shard, reader in readers.items():
            assert positions_of(reader) == list(range(shard, 20, shards))


def test_an_indexed_reader_draws_each_epoch_anew():
    settings = settings_of(Trees(7), epochs=3, seed=5)
    reader = make_readers(settings, points(1), 1)[0]
    indices = [arrival.index for arrival in iter(lambda: next(reader, None), None)]
    assert indices == [draw(settings.source, position, 5, True) for position in range(21)]
    assert all(sorted(indices[n : n + 7]) == list(range(7)) for n in (0, 7, 14))
    assert reader.recall(9).index == indices[9]
    assert reader.recall(9).item is None
    assert reader.bookmark(3) == ""


def test_a_reader_of_an_endless_source_has_patience_for_all_of_it_once():
    assert make_readers(settings_of(Trees(7)), points(1), 1)[0].patience == float("inf")
    assert make_readers(settings_of(Trees(7), epochs=None), points(1), 1)[0].patience == 1000
    assert make_readers(settings_of(Trees(4000), epochs=None), points(1), 1)[0].patience == 4000
    empty = make_readers(settings_of(Trees(0), epochs=None), points(1), 1)[0]
    assert positions_of(empty) == []


class Holes(Trees):
    def __getitem__(self, index):
        if index == 2:
            raise OSError("no disk")
        return None if index == 4 else super().__getitem__(index)


def test_an_indexed_reader_goes_on_behind_what_cannot_be_read():
    reader = make_readers(settings_of(Holes(6), shuffle=False), points(1), 1)[0]
    seen = []
    while True:
        try:
            seen.append(next(reader).index)
        except StopIteration:
            break
        except errors.DataError as error:
            seen.append(str(error))
    assert [seen[n] for n in (0, 1, 3, 5)] == [0, 1, 3, 5]
    assert "example 2: reading it failed: OSError: no disk" in seen[2]
    assert "example 4: the source gave None" in seen[4]


def read_numbers(iterable, n):
    return [number for number, _ in (next(iterable) for _ in range(n))]


def test_bookmarks_are_made_now_and_then_and_lead_back():
    every = BOOKMARK_EVERY
    items = BookmarkedIterable(SavedStream(200), Bookmark.START)
    assert read_numbers(items, 3 * every + 5) == list(range(3 * every + 5))
    assert [mark.number for mark in items.bookmarks] == [0, every, 2 * every, 3 * every]
    for number in (0, 1, every - 1, every, every + 1, 3 * every + 4):
        mark = items.bookmark_before(number)
        assert number - every < mark.number <= number
        assert mark == Bookmark.from_json(mark.to_json())
        again = BookmarkedIterable(SavedStream(200), mark)
        first, item = next(again)
        assert (first, item.key) == (mark.number, f"example {mark.number}")
    items.forget_before(2 * every + 3)
    assert [mark.number for mark in items.bookmarks] == [2 * every, 3 * every]
    items.forget_before(9 * every)
    assert [mark.number for mark in items.bookmarks] == [3 * every]


def test_an_iterable_without_a_state_has_its_start_alone():
    items = BookmarkedIterable(iter([1, 2, 3]), Bookmark.START)
    assert list(iter(lambda: next(items, None), None)) == [(0, 1), (1, 2), (2, 3)]
    assert list(items.bookmarks) == [Bookmark.START]
    assert Bookmark.from_json("") is Bookmark.START
    with pytest.raises(errors.StateError, match="not JSON-safe"):
        Bookmark(3, {1, 2}).to_json()


def test_the_number_stays_at_the_end_and_goes_on_behind_an_error():
    class Stumbling:
        def __init__(self):
            self.items = iter([1, OSError("no disk"), 3])

        def __iter__(self):
            return self

        def __next__(self):
            item = next(self.items)
            if isinstance(item, Exception):
                raise item
            return item

    items = BookmarkedIterable(Stumbling(), Bookmark.START)
    assert next(items) == (0, 1)
    number, item = next(items)
    assert number == 1
    assert isinstance(item, Unreadable)
    assert "example 1: reading it failed: OSError: no disk" in str(item.error)
    assert next(items) == (2, 3)
    for _ in range(2):
        with pytest.raises(StopIteration):
            next(items)
        assert items.number == 3


def test_a_generator_ends_at_its_first_error():
    def generate():
        yield 1
        raise OSError("no disk")

    items = BookmarkedIterable(generate(), Bookmark.START)
    assert next(items) == (0, 1)
    with pytest.raises(BrokenSourceError, match=r"no disk.*a generator ends"):
        next(items)


class Epochs(SavedStream):
    def __init__(self, n=20):
        super().__init__(n)
        self.epochs = []

    def set_epoch(self, epoch):
        self.epochs.append(epoch)


def test_a_source_is_told_its_epoch_before_its_state():
    source = Epochs()
    BookmarkedIterable(source, Bookmark(3, {"next": 3, "epoch": 2}))
    BookmarkedIterable(source, Bookmark(3, {"next": 3}))
    assert source.epochs == [2]
    plain = SavedStream(20)
    items = BookmarkedIterable(plain, Bookmark(3, {"next": 3, "epoch": 2}))
    assert next(items)[1].key == "example 3"


def test_a_splitter_finds_what_is_held_and_what_comes_from_one_bookmark():
    every = BOOKMARK_EVERY
    for rng in cases(30, "splitter"):
        shards, n = int(rng.integers(1, 4)), 150
        start = int(rng.integers(1, n - 20))
        at = [start + (shard - start) % shards for shard in range(shards)]
        held = [
            frozenset(
                p for p in range(shard, at[shard], shards) if p > start - 40 and rng.random() < 0.2
            )
            for shard in range(shards)
        ]
        oldest = min([start, *itertools.chain(*held)])
        mark = Bookmark(oldest // every * every, {"next": oldest // every * every})
        given = {s: ResumePoint(at[s], held[s], mark) for s in range(shards)}
        splitter = Splitter(WholeSavedStream(n), 0, 1, shards, given)
        order = [(s, p) for s in range(shards) for p in held[s]]
        for _, position in (order[i] for i in rng.permutation(len(order))):
            assert splitter.recall(position).item.key == tree_of(position).key
        for shard in rng.permutation(shards).tolist():
            for position in range(at[shard], n, shards):
                arrival = splitter.take(shard)
                assert (arrival.position, arrival.item.key) == (position, f"example {position}")
            with pytest.raises(StopIteration):
                splitter.take(shard)
        with pytest.raises(errors.StateError, match=f"names example {n + 3}, but the source ended"):
            splitter.recall(n + 3)


def test_a_bookmark_waits_for_the_slowest_shard():
    every = BOOKMARK_EVERY
    splitter = Splitter(WholeSavedStream(300), 0, 1, 2, points(2))
    for _ in range(2 * every):
        splitter.take(0)
    first = Bookmark.from_json(splitter.bookmark(0, 4 * every))
    assert first.number == 4 * every or first.number == 3 * every
    # The other shard has read nothing yet.
    assert Bookmark.from_json(splitter.bookmark(1, 1)).number == 0
    splitter.bookmark(1, 2 * every + 1)
    assert splitter.items.bookmarks[0].number == 2 * every
    part = Splitter(SavedStream(300, 1, 2), 1, 2, 2, points(2, [1]))
    for _ in range(2 * every):
        part.take(1)
    # Item 31 of this part, at position 63, comes before its second bookmark.
    assert json.loads(part.bookmark(1, 2 * every - 1)) == [0, None]
    assert json.loads(part.bookmark(1, 1 + 2 * every)) == [every, {"next": 1 + 2 * every}]
