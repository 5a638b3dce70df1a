"""Mixtures: exact shares, every source in its own order, any position without the ones before."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
import treepack as tp
from helpers.cases import cases
from helpers.tree_sources import BUDGETS, MeasuredTrees, Trees
from treepack import errors
from treepack._core import permute
from treepack.testing import check_resume_everywhere, check_same_packs_for_any_topology


class Named:
    """Examples that say where they are from."""

    def __init__(self, name, n):
        self.name, self.n = name, n

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        size = 1 + (7 * index) % 13
        return tp.MessageTree([1] * size, key=f"{self.name} {index}", costs={"crops": index % 3})


def mixture(weights, lengths):
    sources = {name: Named(name, n) for name, n in lengths.items()}
    return tp.Mixture(sources, weights)


def drawn(mix, positions, seed=0, shuffle=True):
    return [mix[mix.draw(position, seed, shuffle)].key for position in positions]


def test_every_block_has_exactly_the_shares():
    for rng in cases(20, "mixture shares"):
        names = [f"s{i}" for i in range(rng.integers(1, 6))]
        weights = {name: int(rng.integers(1, 9)) for name in names}
        mix = mixture(weights, {name: int(rng.integers(1, 20)) for name in names})
        size = sum(mix.shares)
        total = sum(weights.values())
        assert [share * total for share in mix.shares] == [weights[n] * size for n in names]
        start = size * int(rng.integers(0, 1_000_000_000))
        keys = drawn(mix, range(start, start + size), int(rng.integers(0, 1 << 40)))
        counts = Counter(key.split()[0] for key in keys)
        assert counts == dict(zip(names, mix.shares, strict=True))


def test_each_source_comes_in_its_own_seeded_order():
    lengths = {"a": 7, "b": 11}
    mix = mixture({"a": 2, "b": 3}, lengths)
    for seed in (0, 5):
        keys = drawn(mix, range(400), seed)
        for part, (name, n) in enumerate(lengths.items()):
            own = [int(key.split()[1]) for key in keys if key.startswith(name)]
            places = [divmod(turn, n) for turn in range(len(own))]
            assert own == [permute(place, n, seed + part + 1, epoch) for epoch, place in places]
    plain = drawn(mix, range(40), shuffle=False)
    own = [int(key.split()[1]) for key in plain if key.startswith("a")]
    assert own == [turn % 7 for turn in range(len(own))]


def test_a_position_is_the_same_whatever_was_asked_before():
    far = range(10**9, 10**9 + 300)
    mix = mixture({"a": 0.7, "b": 0.3}, {"a": 50, "b": 1000})
    assert mix.shares == [7, 3]
    forward = drawn(mix, far, seed=3)
    drawn(mix, range(1000), seed=3)
    assert drawn(mix, reversed(far), seed=3) == forward[::-1]


GOLDEN = {0: "871d5033b942f1d4", 1: "7f0a7834a9b5c3bc", 12345: "ee4eeca4e5f34a19"}
"""Change them only with a note in the changelog: a stream that was saved could not go on."""


@pytest.mark.parametrize("seed", GOLDEN)
def test_golden_packs(seed):
    mix = mixture({"a": 5, "b": 2.5, "c": 0.3}, {"a": 1000, "b": 10, "c": 77})
    stream = tp.PackedDataset(
        mix, budgets={"tokens": 64, "crops": 8}, epochs=None, virtual_shards=4, seed=seed
    )
    keys = [batch["treepack"].keys for batch in itertools.islice(stream, 200)]
    assert hashlib.sha256(repr(keys).encode()).hexdigest()[:16] == GOLDEN[seed]


def test_a_mixture_resumes_and_keeps_its_packs():
    mix = tp.Mixture({"a": Trees(50), "b": Trees(9)}, {"a": 2, "b": 1})
    stream = tp.PackedDataset(mix, budgets=BUDGETS, pool_size=6, virtual_shards=4)
    check_resume_everywhere(stream, every=3)
    check_same_packs_for_any_topology(stream, [(2, 0), (1, 2)])
    other = tp.Mixture({"a": Trees(50), "b": Trees(9)}, {"a": 1, "b": 1})
    changed = tp.PackedDataset(other, budgets=BUDGETS, pool_size=6)
    with pytest.raises(errors.StateError, match="a: 2 of 50, b: 1 of 9"):
        changed.load_state_dict(stream.state_dict())


def test_measured_sources_are_measured_through_the_mixture():
    mix = tp.Mixture({"a": MeasuredTrees(30), "b": MeasuredTrees(9)}, {"a": 2, "b": 1})
    rows = list(tp.PackedDataset(mix, budgets=BUDGETS, pool_size=6))
    assert sum(len(row["treepack"].keys) for row in rows) == len(mix) == 39


def test_uneven_weights_are_rounded_to_the_block():
    mix = mixture({"a": 3.14159, "b": 2.71828, "c": 1.41421}, {"a": 5, "b": 5, "c": 5})
    assert sum(mix.shares) == 4096
    total = 3.14159 + 2.71828 + 1.41421
    for share, weight in zip(mix.shares, (3.14159, 2.71828, 1.41421), strict=True):
        assert abs(share / 4096 - weight / total) < 1 / 4096


@pytest.mark.parametrize(
    ("sources", "weights", "says"),
    [
        ({}, {}, "one weight for each"),
        ([[1], [1]], [1, 1], r"sources is a list.*\{\"a\": source"),
        ({"a": [1]}, [1], r"weights is a list.*\{\"a\": 1"),
        ({"a": [1]}, {"a": "1"}, "weight of 'a' must be a number.*got '1'"),
        ({"a": [1]}, {"a": None}, "weight of 'a' must be a number.*got None"),
        ({"a": [1]}, {"b": 1}, "one weight for each"),
        ({"a": [1]}, {"a": 0}, "must be a number above 0, got 0"),
        ({"a": [1]}, {"a": float("nan")}, "must be a number above 0"),
        ({"a": []}, {"a": 1}, "not be empty"),
        ({"a": iter([1])}, {"a": 1}, "__len__"),
        ({"a": [1], "b": [1]}, {"a": 1, "b": 1e-9}, "less than 1/4096"),
        ({"a": Trees(), "b": MeasuredTrees()}, {"a": 1, "b": 1}, r"\['b'\] have measure"),
    ],
)
def test_what_cannot_be_mixed_is_rejected(sources, weights, says):
    with pytest.raises(errors.DatasetError, match=says):
        tp.Mixture(sources, weights)


def test_a_weight_may_be_any_real_number():
    kinds = (1, 1.0, np.float32(1), np.int8(1), Fraction(1, 1))
    for one, two in itertools.product(kinds, kinds):
        assert mixture({"a": one, "b": two}, {"a": 3, "b": 3}).shares == [1, 1]
    assert mixture({"a": Fraction(1, 3), "b": Fraction(2, 3)}, {"a": 3, "b": 3}).shares == [1, 2]


def test_an_index_out_of_range_is_an_index_error():
    mix = mixture({"a": 1}, {"a": 3})
    with pytest.raises(IndexError, match="example 3 of a mixture of 3"):
        mix[3]
