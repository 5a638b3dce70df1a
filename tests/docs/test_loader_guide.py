"""The code of docs/guide/loader.md runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import treepack as tp
from helpers import tiny_models
from transformers import Qwen3Config, Qwen3ForCausalLM

PAGE = (Path(__file__).parents[2] / "docs" / "guide" / "loader.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
TEXT = [tp.MessageTree([1 + i % 7] * (1 + i % 23), labels=[5] * (1 + i % 23)) for i in range(300)]

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


def make_dataset():
    return tp.PackedDataset(TEXT, budgets={"tokens": 64}, virtual_shards=4)


def test_a_loader_with_workers_resumes_with_others():
    names = {"text": TEXT}
    exec(BLOCKS[0], names)
    keys = [key for batch in make_dataset() for key in batch["treepack"].keys]
    rest = [key for batch in names["rest"] for key in batch["treepack"].keys]
    taken = [s for batch in list(make_dataset())[:11] for s in batch["treepack"].keys]
    assert sorted(taken + rest) == sorted(keys)


def test_the_steps_train():
    config = Qwen3Config(vocab_size=64, max_position_embeddings=64, **tiny_models.TEXT)
    model = tp.hf.prepare(Qwen3ForCausalLM(config))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    names = {"tp": tp, "loader": make_dataset(), "model": model, "optimizer": optimizer}
    names.update(world=1, device="cpu")
    exec(BLOCKS[1], names)
    assert torch.isfinite(names["loss"])


def test_mixtures_and_costs():
    names = {"tp": tp, "captions": TEXT[:50], "text": TEXT}
    exec(BLOCKS[2], names)
    assert next(iter(names["endless"]))["treepack"].keys
    assert sum(len(batch["treepack"].keys) for batch in names["known"]) == 300


def test_ranks_that_finish_together():
    names = {"tp": tp, "captions": TEXT[:50], "text": TEXT}
    for number in (2, 4):
        exec(BLOCKS[number], names)
    assert sum(len(row["treepack"].keys) for rows in names["ranks"] for row in rows) == 300
