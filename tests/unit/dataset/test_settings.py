"""Settings: what they may be, and what a state remembers of them."""

from __future__ import annotations

import numpy as np
import pytest
import treepack as tp
from helpers.tree_sources import BUDGETS, SavedStream, Trees
from treepack import errors
from treepack.dataset._settings import (
    SPELLED_OUT,
    Policy,
    check_dict,
    check_seed,
    check_table,
    check_windows,
    is_one_of,
    positive,
)


def dataset(source=None, **options):
    settings = {"budgets": BUDGETS, **options}
    return tp.PackedDataset(Trees(9) if source is None else source, **settings)


def mixture(*names):
    return tp.Mixture({name: Trees(9) for name in names}, dict.fromkeys(names, 1))


def test_positive_integers_of_any_kind_are_plain_ones_afterwards():
    assert positive("n", None) is None
    for value in (1, 7, np.int64(7), np.uint8(1)):
        found = positive("n", value)
        assert (found, type(found)) == (value, int)
    for value in (0, -1, True, False, 1.0, "2", np.float64(3), np.int64(0)):
        with pytest.raises(errors.DatasetError, match="n must be a positive integer or None"):
            positive("n", value)


def test_seeds_have_64_bits():
    for value in (0, 1, 2**64 - 1, np.uint64(2**64 - 1), np.int32(5)):
        assert (check_seed(value), type(check_seed(value))) == (value, int)
    for value in (-1, 2**64, 1.0, "1", None):
        with pytest.raises(errors.DatasetError, match=r"seed must be an integer in \[0, 2\*\*64\)"):
            check_seed(value)


def test_windows_are_lists_of_positive_integers():
    assert check_windows(()) == ()
    assert check_windows([np.int64(3), 5]) == (3, 5)
    assert check_windows(iter({4: 1})) == (4,)
    for value in (4, "44", [None], [3, None], None):
        with pytest.raises(errors.DatasetError, match=r"sliding_windows must be a list.*hf\."):
            check_windows(value)
    for value in ([0], [3, -1], [2.5], ["3"]):
        with pytest.raises(errors.DatasetError, match="a window must be a positive integer"):
            check_windows(value)


def test_words_dicts_and_tables_are_what_they_should_be():
    assert is_one_of("mood", "good", "good")
    assert not is_one_of("mood", "raise", "good")
    with pytest.raises(errors.DatasetError, match=r"mood must be one of \['raise', 'good'\]"):
        is_one_of("mood", "goo", "good")
    given = {"a": 1}
    assert check_dict("d", given) == given
    assert check_dict("d", given) is not given
    for value in ([], None, "a"):
        with pytest.raises(errors.DatasetError, match="d must be a dict by name"):
            check_dict("d", value)
    with pytest.raises(errors.DatasetError, match=r"costs is a ndarray.*costs\.from_numpy"):
        check_table(np.ones(3))


def test_a_policy_drops_only_where_it_is_told_to():
    assert [Policy(BUDGETS, {"oversize": how}).drops for how in ("raise", "drop", "alone")] == [
        False, True, False,
    ]  # fmt: skip
    plain = Policy(BUDGETS, {})
    assert (plain.drops, plain.skips, plain.requeues) == (False, False, False)
    packer = Policy({"tokens": 9}, {"pool_size": 3}).make_packer()
    assert (packer.budgets, packer.pool_size) == ({"tokens": 9}, 3)


def test_an_iterable_has_one_epoch_and_padding_a_budget():
    assert dataset(SavedStream(9)).settings.epochs == 1
    for epochs in (2, None):
        assert dataset(epochs=epochs).settings.epochs == epochs
        with pytest.raises(errors.DatasetError, match=f"epochs={epochs} of SavedStream"):
            dataset(SavedStream(9), epochs=epochs)
    assert dataset(pad_to_budget=True).settings.pad_to_budget
    with pytest.raises(errors.BudgetError, match=r"needs a budget 'tokens'.*\['crops'\]"):
        dataset(budgets={"crops": 3}, pad_to_budget=True)
    dataset(budgets={"crops": 3})


def test_a_fingerprint_tells_streams_apart_and_nothing_else():
    same = dataset().settings.fingerprint()
    assert dataset(Trees(9)).settings.fingerprint() == same
    for options in ({"virtual_shards": 4}, {"epochs": 3}, {"on_error": "skip"}, {"shard": (1, 2)}):
        assert dataset(**options).settings.fingerprint() == same
    others = [
        dataset(Trees(8)),
        dataset(SavedStream(9)),
        dataset(seed=1),
        dataset(shuffle=False),
        dataset(pool_size=5),
        dataset(budgets={"tokens": 65, "crops": 8}),
        dataset(oversize="drop"),
        dataset(mixture("a")),
    ]
    found = [str(other.settings.fingerprint()) for other in others]
    assert len({str(same), *found}) == len(others) + 1
    assert same["source"] == "9 examples"
    assert dataset(SavedStream(9)).settings.fingerprint()["source"] == "SavedStream"


def test_the_fingerprint_of_a_long_mixture_is_short_and_its_own():
    def kind(names):
        return dataset(mixture(*names)).settings.fingerprint()

    few, many = kind(["a", "b"])["source"], [f"part {n}" for n in range(60)]
    assert few == repr(mixture("a", "b"))
    long = kind(many)["source"]
    assert long != kind([*many[:-1], "other"])["source"]
    assert long == kind(many)["source"]
    assert SPELLED_OUT // 2 < len(long) < SPELLED_OUT
    assert long.startswith(repr(mixture(*many))[:100])


class Family:
    name, costs, bidirectional = "mine", ("tokens", "crops"), "image_tokens"

    def measure(self, item):
        return {"tokens": 2, "crops": 1}

    def load(self, item):
        return tp.MessageTree([1, 2], costs={"crops": 1})

    def collate(self, trees, total):
        return {}

    def position_ids(self, positions):
        return positions


def test_a_family_may_be_ones_own_and_must_measure_every_budget():
    made = dataset(family=Family())
    assert made.settings.fingerprint()["family"] == "mine"
    assert dataset().settings.fingerprint()["family"] == ""
    with pytest.raises(errors.BudgetError, match=r"\['frames'\] are not measured by family 'mine'"):
        dataset(family=Family(), budgets={"tokens": 9, "frames": 2})
    with pytest.raises(errors.DatasetError, match=r"family is a object without \['measure', 'load"):
        dataset(family=object())
    with pytest.raises(errors.DatasetError, match="family='qwen3_vl' needs a processor"):
        dataset(family="qwen3_vl")
    assert next(iter(made))["treepack"].mask.bidirectional == "image_tokens"
    other = dataset(family=Family(), bidirectional="within_image")
    assert next(iter(other))["treepack"].mask.bidirectional == "within_image"


def test_a_processor_selects_the_family_by_itself_or_with_what_is_said(monkeypatch):
    import treepack.families

    asked = []

    def find(*arguments, **options):
        asked.append((arguments, options))
        return Family()

    monkeypatch.setattr(treepack.families, "find", find)
    processor, chat = object(), object()
    dataset(processor=processor)
    dataset(processor=processor, family="mine", chat=chat)
    assert asked == [((processor, None), {"chat": None}), ((processor, "mine"), {"chat": chat})]


def test_the_room_for_the_smallest_media_is_kept_of_every_budget():
    class Filling(Family):
        def fill_cost(self, kinds):
            return {"tokens": 3} if kinds is True else {"tokens": len(kinds), "crops": 1}

    def settings(fill, **options):
        return dataset(family=Filling(), vision_on_every_row=fill, **options).settings

    for fill, kept, left in (
        (False, False, BUDGETS),
        (True, True, {"tokens": 61, "crops": 8}),
        ("images", ("images",), {"tokens": 63, "crops": 7}),
        (["images", "videos"], ("images", "videos"), {"tokens": 62, "crops": 7}),
    ):
        found = settings(fill)
        assert found.vision_on_every_row == kept
        assert found.policy.budgets == left
    settings(True, budgets={"tokens": 4})
    with pytest.raises(errors.BudgetError, match=r"'tokens' is 3, and vision.* keeps 3 of it"):
        settings(True, budgets={"tokens": 3})
    with pytest.raises(errors.BudgetError, match="'tokens' is 0"):
        settings(False, budgets={"tokens": 0})
    with pytest.raises(errors.DatasetError, match="vision_on_every_row='images' needs the family"):
        dataset(vision_on_every_row="images")
