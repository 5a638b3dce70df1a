"""The code of the README runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import treepack as tp
from helpers import tiny_models

BLOCKS = re.findall(
    r"```python\n(.*?)```", (Path(__file__).parents[2] / "README.md").read_text(), re.DOTALL
)
ANSWERS = {"What is it?": "A photograph.", "How many colours?": "Many.", "Is it real?": "No."}


@pytest.fixture
def user_data(tmp_path, monkeypatch):
    """What the reader of the README has: photographs with questions, and a file of records."""
    monkeypatch.chdir(tmp_path)
    tiny_models.write_photographs(tmp_path, 3, ANSWERS)


@pytest.mark.usefixtures("user_data")
@pytest.mark.parametrize("family", ["molmo2", "qwen3_vl"])
def test_the_opening_trains_a_model(family):
    code = BLOCKS[0]
    if family == "qwen3_vl":
        code = code.replace('"crops"', '"patches"')
    model = getattr(tiny_models, f"{family}_model")().float()
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    names = {"processor": getattr(tiny_models, f"{family}_processor")(), "model": model}
    exec(code, names)
    moved = [n for n, weight in model.named_parameters() if not torch.equal(weight, before[n])]
    assert any("vision" in name or "visual" in name for name in moved)
    assert any("language_model" in name or "transformer" in name for name in moved)
    stats = names["batch"]["treepack"].stats
    assert stats["branches"] > stats["examples"] >= 1


def test_the_tree_and_the_packer_do_what_the_comments_say():
    names = {"tp": tp, **{n: torch.randn(18, h, 8) for n, h in (("q", 4), ("k", 2), ("v", 2))}}
    exec(BLOCKS[1], names)
    assert names["batch"]["input_ids"].shape == (1, 18)
    assert names["out"].shape == (18, 4, 8)
    exec(BLOCKS[2], names)
    assert names["pack"] is None
    assert [pack.keys for pack in names["rest"]] == [["coco/17"]]
