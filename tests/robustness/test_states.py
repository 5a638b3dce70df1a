"""Every damaged state is rejected when it is loaded, and nothing is done by a number in it.

``TREEPACK_CASES=20`` tries ten thousand damages instead of five hundred.
"""

from __future__ import annotations

import copy
import itertools
import json

import pytest
from helpers.cases import cases
from helpers.tree_sources import dataset
from treepack.errors import StateError

NUMBERS = (True, False, -1, 0, 1, 2**31, 10**18, 10**400, 1.0, 0.5, float("nan"))
STRANGE = (*NUMBERS, None, "", "x" * 400, [], [[]], [1], {}, {"a": 1}, (), b"1", {1, 2}, object())


def states():
    """States at several places, of one shard and of several, by index and of an iterable."""
    for source, shards in (("map-style", 1), ("measured", 4), ("saved", 3), ("whole", 2)):
        stream = dataset(source, n=60, virtual_shards=shards)
        yield source, shards, stream.state_dict()
        for _ in itertools.islice(stream, 5):
            pass
        yield source, shards, stream.state_dict()


STATES = list(states())


def places(value, path=()):
    """The path to every value inside of a state."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        yield (*path, key)
        if isinstance(inner, (dict, list)):
            yield from places(inner, (*path, key))


def damaged(rng, state):
    """The state with one thing wrong somewhere in it."""
    state = copy.deepcopy(state)
    paths = list(places(state))
    *path, key = paths[rng.integers(len(paths))]
    inside = state
    for step in path:
        inside = inside[step]
    value = inside[key]
    kind = rng.integers(5)
    if kind == 0:
        del inside[key]
    elif kind == 1 and isinstance(value, int):
        inside[key] = value + int(rng.choice([-1, 1, 7, 2**40]))
    elif kind == 2 and isinstance(value, list) and value:
        inside[key] = value * 2
    elif kind == 3 and isinstance(inside, list):
        inside.insert(int(rng.integers(len(inside) + 1)), STRANGE[rng.integers(len(STRANGE))])
    else:
        inside[key] = STRANGE[rng.integers(len(STRANGE))]
    return state


def rejection(stream, state):
    """The message of the error, or nothing."""
    try:
        stream.load_state_dict(state)
    except StateError as error:
        return str(error)
    return ""


def canonical(state):
    return json.dumps(state, sort_keys=True)


def test_damaged_states_are_rejected():
    rejected = 0
    for rng in cases(500, "damaged states"):
        source, shards, state = STATES[rng.integers(len(STATES))]
        other = damaged(rng, state)
        stream = dataset(source, n=60, virtual_shards=shards)
        if message := rejection(stream, other):
            rejected += 1
            assert len(message) < 1000
        else:
            # What was put in is what had been there.
            assert canonical(other) == canonical(state)
    assert rejected > 0.8 * 500


@pytest.mark.parametrize("thing", [*STRANGE, "state", [STATES[0]]])
def test_what_is_no_state_is_rejected(thing):
    with pytest.raises(StateError):
        dataset(n=60).load_state_dict(thing)


def test_a_state_that_holds_itself_is_rejected():
    _, _, state = copy.deepcopy(STATES[1])
    state["shards"].append(state["shards"])
    with pytest.raises(StateError):
        dataset(n=60, virtual_shards=1).load_state_dict(state)


def test_a_state_is_as_good_as_its_tuples():
    source, shards, state = STATES[3]
    other = {**state, "scope": tuple(state["scope"]), "shards": tuple(map(tuple, state["shards"]))}
    one, two = (dataset(source, n=60, virtual_shards=shards) for _ in range(2))
    one.load_state_dict(state)
    two.load_state_dict(other)
    assert [b["treepack"].keys for b in one] == [b["treepack"].keys for b in two]
