"""Bad examples, sources and settings: the error names what is wrong, and nothing else is lost."""

from __future__ import annotations

import numpy as np
import pytest
import treepack as tp
from torch.utils.data import DataLoader
from treepack import errors

BUDGETS = {"tokens": 16, "crops": 4}


def good(index):
    return tp.MessageTree([1] * (1 + index % 7), key=f"good {index}", costs={"crops": index % 3})


BAD = {
    0: lambda: tp.MessageTree([1] * 17, key="too long", costs={"crops": 1}),
    10: lambda: tp.MessageTree([1], key="too many crops", costs={"crops": 5}),
    20: lambda: tp.MessageTree([1], key="negative", costs={"crops": -1}),
    30: lambda: tp.MessageTree([1], key="fractional", costs={"crops": 0.5}),
    40: lambda: tp.MessageTree([1], key="unmeasured"),
    50: lambda: tp.MessageTree([1.5], costs={"crops": 1}),
    60: lambda: {}["missing"],
    70: lambda: "no tree at all",
    80: lambda: tp.MessageTree([], key="no root tokens", costs={"crops": 1}),
}


class Poisoned:
    """Every tenth example is bad in its own way."""

    def __len__(self):
        return 90

    def __getitem__(self, index):
        return BAD[index]() if index in BAD else good(index)


GOOD = sorted(f"good {i}" for i in range(90) if i not in BAD)
SAYS = [
    (errors.OversizeError, ["'too long'", "17", "16", "drop"]),
    (errors.OversizeError, ["'too many crops'", "5 crops", "4"]),
    (errors.CostError, ["'negative'", "-1", "crops"]),
    (errors.CostError, ["'fractional'", "0.5", "crops"]),
    (errors.CostError, ["'unmeasured'", "crops"]),
    (errors.TreeError, ["50", "float64", "integers"]),
    (errors.DataError, ["60", "missing"]),
    (errors.DatasetError, ["70", "str", "processor"]),
    (errors.TreeError, ["'no root tokens'", "token"]),
]


def test_each_bad_example_raises_and_nothing_else_is_lost():
    stream = iter(tp.PackedDataset(Poisoned(), budgets=BUDGETS, pool_size=8, shuffle=False))
    caught, keys = [], []
    while True:
        try:
            batch = next(stream)
        except StopIteration:
            break
        except errors.TreepackError as error:
            caught.append(error)
            continue
        keys += batch["treepack"].keys
    assert sorted(keys) == GOOD
    assert len(caught) == len(SAYS)
    for (kind, says), error in zip(SAYS, caught, strict=True):
        assert isinstance(error, kind), (kind, error)
        assert all(word in str(error) for word in says), str(error)


@pytest.mark.parametrize("workers", [0, 2])
def test_skip_counts_them_and_goes_on(workers):
    dataset = tp.PackedDataset(Poisoned(), budgets=BUDGETS, pool_size=8, on_error="skip")
    rows = list(DataLoader(dataset, batch_size=None, num_workers=workers))
    assert sorted(key for row in rows for key in row["treepack"].keys) == GOOD
    if not workers:
        assert rows[-1]["treepack"].stats["skipped"] == len(BAD)


def test_oversize_examples_are_dropped_and_counted_or_go_alone():
    source = [good(1), tp.MessageTree([1] * 40, key="long", costs={"crops": 0}), good(2)]
    rows = list(tp.PackedDataset(source, budgets=BUDGETS, oversize="drop"))
    assert sorted(key for row in rows for key in row["treepack"].keys) == ["good 1", "good 2"]
    assert rows[-1]["treepack"].stats["dropped"] == 1
    rows = list(tp.PackedDataset(source, budgets=BUDGETS, oversize="alone"))
    assert ["long"] in [row["treepack"].keys for row in rows]
    assert rows[-1]["treepack"].stats["alone"] == 1


class Liar:
    """Measures less than it loads."""

    def __len__(self):
        return 3

    def measure(self, index):
        return {"tokens": 2, "crops": 0}

    def load(self, index):
        return tp.MessageTree([1] * (9 if index == 1 else 2), costs={"crops": 0})

    def __getitem__(self, index):
        return self.load(index)


def test_a_cost_that_was_measured_wrong_is_an_error_that_names_both():
    stream = iter(tp.PackedDataset(Liar(), budgets=BUDGETS, shuffle=False))
    with pytest.raises(errors.DataError, match=r"example 1 was measured with 2 tokens and has 9"):
        next(stream)
    assert next(stream)["treepack"].keys == [0, 2]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (5, "no source"),
        (iter([good(1)]), "used up after one iteration"),
        (type("M", (), {"measure": 1, "__iter__": 1})(), "measure"),
    ],
)
def test_what_is_no_source_is_rejected(source, says):
    with pytest.raises(errors.DatasetError, match=says):
        tp.PackedDataset(source, budgets=BUDGETS)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"budgets": {"tokens": 0}}, errors.BudgetError, "'tokens' is 0"),
        ({"pool_size": 0}, errors.BudgetError, "pool_size is 0"),
        ({"virtual_shards": 0}, errors.DatasetError, "virtual_shards"),
        ({"shard": (2, 2)}, errors.DatasetError, r"\(2, 2\)"),
        ({"shard": 3}, errors.DatasetError, "rank, world.*3"),
        ({"seed": 1.5}, errors.DatasetError, "1.5"),
        ({"epochs": "a"}, errors.DatasetError, "epochs.*'a'"),
        ({"sliding_windows": 5}, errors.DatasetError, "sliding_windows.*5"),
        ({"sliding_windows": [0]}, errors.DatasetError, "window.*0"),
        ({"budgets": None}, errors.BudgetError, "budgets are missing"),
        ({"budgets": [8]}, errors.DatasetError, "budgets must be a dict"),
        ({"packer": 5}, errors.DatasetError, "packer.*5"),
        ({"seed": None}, errors.DatasetError, "None"),
        ({"costs": np.ones((1, 2))}, errors.DatasetError, "ndarray.*from_numpy"),
        ({"seed": -1}, errors.DatasetError, "seed"),
        ({"epochs": 0}, errors.DatasetError, "epochs"),
        ({"on_error": "ignore"}, errors.DatasetError, "ignore"),
        ({"family": "molmo2"}, errors.DatasetError, "processor"),
        ({"budgets": {"crops": 4}, "pad_to_budget": True}, errors.BudgetError, "pad_to_budget"),
    ],
)
def test_settings_that_cannot_work_are_rejected_at_once(options, error, says):
    with pytest.raises(error, match=says):
        tp.PackedDataset([good(1)], **{"budgets": BUDGETS, **options})


@pytest.mark.parametrize("epochs", [2, None])
def test_an_iterable_has_no_epochs(epochs):
    with pytest.raises(errors.DatasetError, match=f"epochs={epochs} of Stream.*one iteration"):
        tp.PackedDataset(Stream(), budgets=BUDGETS, epochs=epochs)


def test_ranks_that_do_not_divide_the_shards_are_told_what_would():
    dataset = tp.PackedDataset([good(1)], budgets=BUDGETS, virtual_shards=6, shard=(0, 4))
    with pytest.raises(errors.DatasetError, match=r"4 ranks x 1 workers = 4 .* virtual_shards=6"):
        next(iter(dataset))


def test_a_row_that_cannot_be_laid_out_is_named_or_counted():
    source = [
        tp.MessageTree([1], key=f"wide {n}", media={"pixels": np.ones((1, n))}, costs={"crops": 1})
        for n in (2, 3)
    ]
    with pytest.raises(errors.BatchError, match=r"\(1, 3\).*'wide 2', 'wide 3'"):
        list(tp.PackedDataset(source, budgets=BUDGETS, shuffle=False))
    stream = iter(tp.PackedDataset(source, budgets=BUDGETS, on_error="skip"))
    assert list(stream) == []
    assert stream.state_dict()["shards"][0][4] == 2


def test_a_batch_is_padded_to_the_budget_on_request():
    rows = list(tp.PackedDataset([good(3)], budgets=BUDGETS, pad_to_budget=True))
    assert rows[0]["input_ids"].shape == (1, 16)
    assert rows[0]["treepack"].stats["padding"] == 12


def test_inputs_are_never_modified():
    tokens, labels = np.arange(1, 6), np.arange(1, 6)
    pixels = np.ones((2, 3), np.float32)
    tree = tp.MessageTree(tokens, labels=labels, media={"pixels": pixels}, costs={"crops": 2})
    for array in (tokens, labels, pixels):
        array.flags.writeable = False
    (batch,) = tp.PackedDataset([tree], budgets=BUDGETS)
    for value in batch.values():
        if hasattr(value, "fill_"):
            value.fill_(0)
    assert tokens.tolist() == labels.tolist() == [1, 2, 3, 4, 5]
    assert (pixels == 1).all()
    assert tree.key is None


def trees(n=40):
    return [tp.MessageTree([1] * (1 + i % 5), key=i, costs={"crops": 0}) for i in range(n)]


def longer(tree):
    return tp.MessageTree([7] * (2 * tree.n_tokens), key=tree.key, costs={"crops": 1})


class Stream:
    """The same, to be read from the start."""

    def __iter__(self):
        return iter(trees())


class Measured:
    """Trees whose cost is known before a transform changes it."""

    def __init__(self, cost):
        self.cost = cost

    def __len__(self):
        return 40

    def measure(self, index):
        return {"tokens": self.cost(1 + index % 5), "crops": 1}

    def __getitem__(self, index):
        return trees()[index]


@pytest.mark.parametrize("options", [{}, {"on_cost_mismatch": "requeue"}])
@pytest.mark.parametrize(
    "source", [trees(), Stream(), Measured(lambda n: 2 * n), Measured(lambda n: n)]
)
def test_what_a_transform_makes_of_an_example_is_what_it_costs(source, options):
    dataset = tp.PackedDataset(
        source, budgets=BUDGETS, transform=longer, pool_size=8, on_error="skip", **options
    )
    rows = list(dataset)
    for row in rows:
        assert row["input_ids"].shape[1] <= BUDGETS["tokens"]
        assert (row["input_ids"] == 7).all()
    keys = sorted(key for row in rows for key in row["treepack"].keys)
    is_wrong = isinstance(source, Measured) and source.measure(0)["tokens"] == 1
    assert keys == ([] if is_wrong and not options else list(range(40)))


@pytest.mark.parametrize(
    ("transform", "says"), [(lambda tree: None, "NoneType"), (lambda tree: {}["x"], "KeyError")]
)
@pytest.mark.parametrize("source", [trees(3), Measured(lambda n: n)])
def test_a_transform_that_fails_is_an_error_of_the_example(source, transform, says):
    options = {"budgets": BUDGETS, "transform": transform, "shuffle": False}
    with pytest.raises(errors.TreepackError, match=rf"(?s)example 0.*{says}"):
        next(iter(tp.PackedDataset(source, **options)))
    assert list(tp.PackedDataset(source, on_error="skip", **options)) == []


class Endless:
    """Nothing that could be packed: too large, not loadable, or rows that do not fit together."""

    def __init__(self, kind):
        self.kind = kind
        if kind in ("loading", "joining"):
            self.measure = lambda index: {"tokens": 2, "crops": 0}

    def __len__(self):
        return 3

    def __getitem__(self, index):
        if self.kind == "oversize":
            return tp.MessageTree([1] * 99, costs={"crops": 0})
        if self.kind == "joining":
            shape = (1, 2 + index)
            return tp.MessageTree([1, 2], costs={"crops": 0}, media={"pixels": np.ones(shape)})
        return {}["missing"]


@pytest.mark.parametrize("kind", ["reading", "loading", "joining", "oversize"])
def test_an_endless_stream_of_which_nothing_can_be_used_ends_with_an_error(kind):
    dataset = tp.PackedDataset(
        Endless(kind), budgets=BUDGETS, epochs=None, on_error="skip", oversize="drop", pool_size=4
    )
    with pytest.raises(errors.DatasetError, match=r"100\d examples .* no end"):
        next(iter(dataset))


def test_what_was_skipped_is_logged_the_more_rarely_the_more_there_is(caplog):
    dataset = tp.PackedDataset(Poisoned(), budgets=BUDGETS, on_error="skip", shuffle=False)
    list(dataset)
    counts = [int(text.split(" skipped")[0].split("(")[-1]) for text in caplog.messages]
    assert counts == [1, 2, 4, 8]
    assert "'too long'" in caplog.messages[0]


def test_images_see_both_ways_where_the_dataset_says_so():
    source = [tp.MessageTree([1, 2, 3, 4], image_runs=[(0, 3, 0)])]
    for mode in ("none", "image_tokens", "within_image"):
        (row,) = tp.PackedDataset(source, budgets={"tokens": 9}, bidirectional=mode)
        assert row["treepack"].mask.bidirectional == mode
        assert row["treepack"].mask.visible(0, 2) == (mode != "none")
    sliding = "within_image_sliding"
    (row,) = tp.PackedDataset(source, budgets={"tokens": 9}, bidirectional=sliding)
    masks = row["treepack"].mask, row["treepack"].sliding_mask
    assert [mask.visible(0, 2) for mask in masks] == [False, True]


def test_the_ranks_are_those_that_torchrun_will_make(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert tp.PackedDataset(trees(), budgets=BUDGETS).shard == (1, 3)
    assert tp.PackedDataset(trees(), budgets=BUDGETS, shard=(0, 1)).shard == (0, 1)


def test_batches_of_another_dataset_are_not_counted():
    one, other = (tp.PackedDataset(trees(), budgets=BUDGETS, seed=seed) for seed in (1, 2))
    batch = next(iter(other))
    with pytest.raises(errors.StateError, match="seed was 2 and is 1"):
        one.consumed(batch)
    with pytest.raises(errors.StateError, match="no state"):
        one.consumed({})
