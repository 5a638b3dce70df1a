"""States: what is damaged is found, and those of all ranks make one."""

from __future__ import annotations

import copy

import pytest
from helpers.tree_sources import dataset
from treepack.dataset.state import (
    VERSION,
    Scope,
    ShardState,
    check_fingerprint,
    check_layout,
    check_state,
    last_shard,
    make_state,
    merge,
    shards_of,
)
from treepack.errors import StateError

FINGERPRINT = {"source": "9 examples", "seed": 0}


def shard(number, packs=0, **fields):
    empty = ShardState(number, packs, number, 0, 0, [0] * 4, [], [], [], [], [], [], "")
    return empty._replace(**fields)


def state(*shards, scope=(1, 0, 0), total=4, fingerprint=FINGERPRINT):
    return make_state(fingerprint, Scope(*scope), total, shards)


def test_a_sound_state_passes_as_it_is_made_and_as_a_dataset_gives_it():
    check_layout(state(shard(0), shard(3, keys=[0], arrivals=[0], costs=[[1]])))
    check_layout(state(scope=(4, 3, 0), total=0))
    stream = dataset(n=30, virtual_shards=2)
    next(iter(stream))
    check_layout(stream.state_dict())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"version": VERSION + 1}, f"version {VERSION + 1}, this treepack reads {VERSION}"),
        ({"scope": [1, 0]}, "damaged: TypeError"),
        ({"scope": 3}, "damaged: TypeError"),
        ({"scope": [2, 2, 0]}, "contradicts itself"),
        ({"scope": [2, -1, 0]}, "contradicts itself"),
        ({"scope": [0, 0, 0]}, "contradicts itself"),
        ({"fingerprint": "none"}, "contradicts itself"),
        ({"shards": [[1, 2]]}, "damaged: TypeError"),
        ({"shards": [shard(4)]}, "contradicts itself"),
        ({"shards": [shard(-1)]}, "contradicts itself"),
        ({"shards": [shard(1), shard(1)]}, "contradicts itself"),
        ({"shards": [shard(0, keys=[1])]}, "contradicts itself"),
        ({"shards": [shard(0, keys=[1], arrivals=[1])]}, "contradicts itself"),
        ({"shards": [shard(0, keys=[1], costs=[[1]])]}, "contradicts itself"),
        ({"shards": [shard(0, arrivals=[1], costs=[[1]])]}, "contradicts itself"),
        ({"shards": [shard(0, counters=[0] * 3)]}, "contradicts itself"),
        ({"shards": [shard(0), shard(2, counters=[0] * 5)]}, "contradicts itself"),
    ],
)
def test_a_damaged_state_is_named(change, says):
    with pytest.raises(StateError, match=says):
        check_layout({**state(), **change})


@pytest.mark.parametrize("missing", ["scope", "virtual_shards", "shards", "fingerprint"])
def test_a_state_without_a_part_is_damaged(missing):
    cut = state()
    del cut[missing]
    with pytest.raises(StateError, match=f"damaged: KeyError: '{missing}'"):
        check_layout(cut)


@pytest.mark.parametrize("value", [None, 3, [], {}, {"step": 4}, "x" * 999])
def test_what_is_no_state_is_shown_in_short(value):
    with pytest.raises(StateError, match="no state of a PackedDataset") as error:
        check_layout(value)
    assert len(str(error.value)) < 160


def test_states_of_other_settings_say_which():
    ours = {"source": "9 examples", "seed": 1}
    with pytest.raises(StateError, match="seed was 0 and is 1") as error:
        check_fingerprint(FINGERPRINT, ours)
    assert "source" not in str(error.value)
    with pytest.raises(StateError, match="seed was 0 and is None"):
        check_fingerprint(FINGERPRINT, {"source": "9 examples"})
    check_fingerprint(FINGERPRINT, dict(FINGERPRINT))


@pytest.mark.parametrize(("saved", "asked", "fits"), [
    (4, 4, True), (4, None, True), (0, 4, True), (0, None, True), (4, 2, False), (2, 4, False),
])  # fmt: skip
def test_the_number_of_virtual_shards_is_that_of_the_state(saved, asked, fits):
    given = state(total=saved)
    if fits:
        check_state(given, FINGERPRINT, asked)
        return
    with pytest.raises(StateError, match=f"has {saved} virtual shards and the dataset {asked}"):
        check_state(given, FINGERPRINT, asked)


def test_what_a_shard_holds_and_has_dropped():
    one = shard(0, keys=[1, 5], pending=[[7, 3]], requeued=[[9, 4]], counters=[1, 2, 3, 4])
    assert one.held == {1, 5, 7, 9}
    assert one.dropped == 3
    assert shards_of(None) == {}
    assert shards_of(state(one)) == {0: one}


def test_the_last_shard_is_the_one_that_gave_most_and_of_several_the_last():
    assert last_shard(state(shard(0, 2), shard(1, 2), shard(2, 1))) == 1
    assert last_shard(state(shard(0, 3), shard(1, 2))) == 0


def test_a_merged_state_has_the_furthest_of_each_shard():
    ranks = [
        state(shard(2, 1), shard(0, 2), scope=(2, 0, 2)),
        state(shard(1, 2), shard(3, 1), scope=(2, 1, 2)),
    ]
    before = copy.deepcopy(ranks)
    merged = merge(ranks)
    assert merged == merge(reversed(ranks))
    assert ranks == before
    assert (merged["scope"], merged["virtual_shards"]) == ([1, 0, 2], 4)
    assert [(s[0], s[1]) for s in merged["shards"]] == [(0, 2), (1, 2), (2, 1), (3, 1)]
    # One that knows all shards from before lets the others be ahead.
    old = state(*(shard(n, 1) for n in range(4)))
    ahead = merge([old, *ranks])
    assert [s[1] for s in ahead["shards"]] == [2, 2, 1, 1]
    assert merge([*ranks, old]) == ahead


def test_a_rank_that_does_not_know_the_shards_yet_takes_those_of_the_others():
    ranks = [
        state(scope=(2, 0, 0), total=0),
        state(shard(1, 1), scope=(2, 1, 0), total=2),
    ]
    assert merge(ranks)["virtual_shards"] == 2
    assert merge(ranks[::-1])["virtual_shards"] == 2


def test_states_that_do_not_cover_the_stream_are_not_merged():
    with pytest.raises(StateError, match="no states to merge"):
        merge([])
    ranks = [state(scope=(3, n, 0), total=3) for n in range(3)]
    merge(ranks)
    merge([*ranks, ranks[0]])
    with pytest.raises(StateError, match="cover 2 of 3 ranks"):
        merge(ranks[1:])
    with pytest.raises(StateError, match="cover 2 of 3 ranks"):
        merge([ranks[0], ranks[0], ranks[2]])
    # That of a rank among two says nothing of the fourth among four.
    four = [state(scope=(4, n, 0)) for n in range(3)]
    with pytest.raises(StateError, match="cover 3 of 4 ranks"):
        merge([*four, state(scope=(2, 1, 2))])
    with pytest.raises(StateError, match="seed was 1 and is 0"):
        merge([ranks[0], state(scope=(3, 1, 0), total=3, fingerprint={**FINGERPRINT, "seed": 1})])
    with pytest.raises(StateError, match="no state"):
        merge([ranks[0], {}])


@pytest.mark.parametrize(
    "unsound",
    [
        state(scope=(2, 2, 0)),
        state(shard(4)),
        state(shard(1), shard(1)),
        state(shard(0, keys=[1])),
        state(shard(0, counters=[0] * 3)),
    ],
)
def test_a_state_that_contradicts_itself_is_found_whatever_its_digest(unsound):
    with pytest.raises(StateError, match="contradicts itself"):
        check_layout(unsound)


def test_what_is_damaged_is_shown_in_short():
    class Loud(dict):
        def __getitem__(self, name):
            return super().__getitem__(name) if name != "scope" else super().__getitem__("x" * 5000)

    with pytest.raises(StateError, match="damaged: KeyError") as error:
        check_layout(Loud(state()))
    assert len(str(error.value)) < 300
