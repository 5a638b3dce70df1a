"""Statistics of a training: sums over rows, counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
import treepack as tp
from helpers.cases import cases
from treepack.errors import BatchError


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def stream(rng, **options):
    trees = [
        tp.MessageTree(
            [1] * int(rng.integers(1, 9)),
            children=[tp.MessageTree([2], labels=[2])] * int(rng.integers(0, 3)),
            costs={"crops": int(rng.integers(0, 4))},
        )
        for _ in range(40)
    ]
    budgets = {"tokens": 12, "crops": 5}
    return tp.PackedDataset(trees, budgets=budgets, pool_size=5, pad_to_budget=True, **options)


def test_a_report_is_what_one_counts_by_hand():
    for rng in cases(20, "statistics"):
        clock = Clock()
        statistics = tp.train.Statistics(clock)
        rows, bound, begin = 0, {"tokens": 0, "crops": 0}, 0
        batches = list(stream(rng, virtual_shards=2))
        ends = [*sorted(rng.choice(np.arange(1, len(batches)), 2, replace=False)), len(batches)]
        for end in ends:
            window, begin = batches[begin:end], end
            clock.now += 2.0
            statistics.add(window)
            report = statistics.report()
            told = [batch["treepack"] for batch in window]
            used = [row.mask.used for row in told]
            waits = np.sort(np.concatenate([row.waits for row in told]))
            rows += len(window)
            crops = [round(5 * row.stats["fill_crops"]) for row in told]
            bound = {"tokens": bound["tokens"] + sum(used), "crops": bound["crops"] + sum(crops)}
            fewest = max(bound["tokens"] / 12, bound["crops"] / 5)
            expected = {
                "fill_tokens": np.mean(used) / 12,
                "fill_crops": np.mean(crops) / 5,
                "row_fill_frac": np.mean(used) / 12,
                "packing_ratio": np.mean([len(row.keys) for row in told]),
                "targets_per_row": np.mean([batch["targets"].shape[1] for batch in window]),
                "tokens_per_row": np.mean(used),
                "attention_pairs_per_row": np.mean([row.mask.area for row in told]),
                "pad_frac": 1 - sum(used) / (12 * len(window)),
                "wait_mean": waits.mean(),
                "wait_p99": waits[int(np.ceil(0.99 * len(waits))) - 1],
                "wait_max": waits[-1],
                "tokens_per_second": sum(used) / 2,
                "rows_total": rows,
                "rows_per_bound": rows / fewest,
                "dropped_oversize_total": 0,
            }
            for name, value in expected.items():
                assert report[f"treepack/{name}"] == pytest.approx(value), name
            assert all(type(value) is float for value in report.values())
        assert report["treepack/examples_total"] == 40


def test_what_was_left_out_is_counted_over_all_shards():
    trees = [tp.MessageTree([1] * (3 + 9 * (i % 4 == 0)), labels=None) for i in range(40)]
    options = {"budgets": {"tokens": 6}, "virtual_shards": 3, "shuffle": True}
    for policy, name in [("drop", "dropped_oversize_total"), ("alone", "alone_total")]:
        statistics = tp.train.Statistics()
        statistics.add(tp.PackedDataset(trees, oversize=policy, **options))
        assert statistics.report()[f"treepack/{name}"] == 10


def test_waits_are_there_and_the_longest_is_that_of_the_row():
    for batch in stream(np.random.default_rng(4)):
        row = batch["treepack"]
        assert len(row.waits) == len(row.keys)
        assert max(row.waits) == row.stats["wait_max"]
        assert row.to("cpu").waits == row.waits


def test_a_row_that_fills_up_a_step_is_counted_once():
    trees = [tp.MessageTree([1, 2], labels=[1, 2])] * 3
    dataset = tp.PackedDataset(trees, budgets={"tokens": 2})
    statistics = tp.train.Statistics()
    count = 0
    for packs, _ in tp.train.steps(dataset, accumulate=2, end="fill"):
        statistics.add(packs)
        count += len(packs)
    assert count == 4
    assert statistics.report()["treepack/rows_total"] == 3


def test_nothing_counted_is_an_empty_report_and_a_window_may_be_empty():
    statistics = tp.train.Statistics()
    assert statistics.report() == {}
    statistics.add(tp.collate([tp.MessageTree([1, 2])]))
    first = statistics.report()
    assert first["treepack/pad_frac"] == 0
    assert statistics.report() == {"treepack/rows_total": 1.0, "treepack/examples_total": 1.0}


@pytest.mark.parametrize("wrong", [{"input_ids": [1]}, [3], ["treepack"]])
def test_anything_else_is_rejected(wrong):
    with pytest.raises(BatchError, match="packed rows"):
        tp.train.Statistics().add(wrong)
