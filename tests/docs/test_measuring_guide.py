"""The code of docs/guide/measuring.md runs as it stands, and what it quotes is what is said."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import treepack as tp
from helpers import tiny_models
from PIL import Image
from treepack.cli import main
from treepack.measuring.shapes import SHAPES
from treepack.packing import mixture_sft

PAGE = (Path(__file__).parents[2] / "docs" / "guide" / "measuring.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_the_blocks_measure_pack_and_simulate(tmp_path, monkeypatch, capsys):
    pytest.importorskip("pyarrow")
    monkeypatch.chdir(tmp_path)
    Path("images").mkdir()
    records = []
    for number in range(4):
        Image.fromarray(tiny_models.photo(number)).save(f"images/{number}.png")
        records.append(tiny_models.record("<image>\nWhat?", "A photo.", image=f"{number}.png"))
    Path("train.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    names = {"tp": tp, "processor": tiny_models.qwen3_vl_processor.__wrapped__()}
    for block in BLOCKS:
        exec(block, names)
    assert sum(len(batch["treepack"].keys) for batch in names["dataset"]) == 4
    printed = capsys.readouterr().out
    assert all(f"{each.kind} {each.text}" in printed for each in names["found"].advice)
    assert set(SHAPES) < set(names["table"].names)


def test_the_advice_that_the_page_quotes_is_what_the_mixture_gets():
    found = tp.simulate(mixture_sft.generate("sft"), mixture_sft.BUDGETS)
    quoted = " ".join(
        line.removeprefix(">").strip() for line in PAGE.splitlines() if line[:1] == ">"
    )
    for advice in found.advice[:2]:
        assert advice.text in " ".join(quoted.split())


def test_the_commands_are_commands(capsys):
    for command in re.findall(r"^    treepack (\w+) ", PAGE, re.MULTILINE):
        assert main([command, "--help"]) == 0
        assert f"treepack {command}" in capsys.readouterr().out
