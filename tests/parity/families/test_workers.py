"""Families in worker processes: the packs are those of the training process."""

import numpy as np
import pytest
import torch
import treepack as tp
from helpers import zoo
from helpers.cases import FACTOR
from helpers.tree_sources import Chained
from helpers.zoo.examples import TEXT, A, B, image, rows, said
from torch.utils.data import DataLoader
from treepack import families

pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
    # GLM's processor makes arrays of lists of tensors.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

# Each of these makes its inputs in another way.
FEW = ("gemma3", "gemma4", "glm4v", "internvl", "molmo2", "qwen3_vl", "smolvlm")
NAMES, METHOD = (FEW, "fork") if FACTOR < 5 else (tuple(zoo.BUILDERS), "spawn")
"""Spawned workers import everything anew, which takes a minute."""


def stream(name):
    """Packs of a family: films too where it sees them, and texts alone."""
    made = families.find(zoo.build(name)[0])
    found = dict(rows(name))
    # PaliGemma answers one question about an image, and nothing else.
    is_prompt = name == "paligemma"
    kinds = [said(name)] if is_prompt else [B, A]
    more = [
        tp.Conversations(kinds[n % len(kinds)], [image(n, 30 + n, 50)], key=n) for n in range(5)
    ]
    source = [*found.get("mixed", found["images"]), *([] if is_prompt else [TEXT]), *more]
    costs = [made.measure(example) for example in source]
    budgets = {unit: 2 * max(cost.get(unit, 0) for cost in costs) for unit in made.costs}
    return tp.PackedDataset(source, family=made, budgets=budgets, virtual_shards=2)


def packs(streams, workers):
    """The arrays of every row, by its keys, for each of the streams."""
    context = METHOD if workers else None
    loader = DataLoader(
        Chained(streams), batch_size=None, num_workers=workers, multiprocessing_context=context
    )
    found = {}
    for place, batch in loader:
        arrays = {name: array for name, array in batch.items() if isinstance(array, torch.Tensor)}
        found[place, tuple(map(str, batch["treepack"].keys))] = arrays
    return found


def test_workers_give_the_packs_of_every_family():
    streams = [stream(name) for name in NAMES]
    here, there = packs(streams, 0), packs(streams, 2)
    assert {place for place, _ in here} == set(range(len(streams)))
    assert any(len(keys) > 1 for _, keys in here)
    assert here.keys() == there.keys()
    for row, arrays in here.items():
        assert arrays.keys() == there[row].keys()
        for name, array in arrays.items():
            assert np.array_equal(array, there[row][name]), (row, name)
