"""The code of the first pages runs as it stands, and gives what they say."""

from __future__ import annotations

import functools
import re
import tomllib
from pathlib import Path

import pytest
import torch
import treepack as tp
from helpers import tiny_models

ROOT = Path(__file__).parents[2]
START = (ROOT / "docs" / "start.md").read_text()
CONCEPTS = (ROOT / "docs" / "concepts.md").read_text()
QUESTIONS = ("Is it real?", "Is it a photograph?")
DOCTOR = (ROOT / "docs" / "guide" / "doctor.md").read_text()


def blocks(page):
    return re.findall(r"```python\n(.*?)```", page, re.DOTALL)


def shown(block):
    """The lines of a block that say in a comment what they give: (code, comment)."""
    return re.findall(r"^(\S.*?)  # (.*)$", block, re.MULTILINE)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_models.write_photographs(tmp_path, 4, dict.fromkeys(QUESTIONS, "Yes."))
    return tmp_path


def test_the_start_leads_from_a_row_to_a_step_and_a_check(folder, capsys):
    row, file, step, check = blocks(START)
    names = {}
    exec(row, names)
    values = {code: comment for code, comment in shown(row) if code.startswith("batch")}
    assert len(values) == 4
    assert list(names["batch"]["input_ids"].shape) == [1, 15]
    assert names["batch"]["position_ids"][0, 7].item() == 4, "a branch goes on at its root's end"
    assert str(names["batch"]["treepack"].keys) == values['batch["treepack"].keys']
    assert (folder / "row.html").read_text().startswith("<!doctype html>")

    names |= {"processor": tiny_models.molmo2_processor(), "model": tiny_models.molmo2_model()}
    names["model"].float()
    exec(file, names)
    assert names["batch"]["treepack"].stats["branches"] >= 2
    exec(step, names)
    assert any(weight.grad is not None for weight in names["model"].parameters())
    exec(check, names)
    assert "logits" in capsys.readouterr().out


def test_its_table_has_every_extra_that_users_need():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    told = set(re.findall(r"^\| `(\w+)` \|", START, re.MULTILINE))
    assert told == project["optional-dependencies"].keys() - {"demo", "dev", "docs"}


def test_the_concepts_give_what_their_comments_say():
    tree, packer, mask = blocks(CONCEPTS)
    names = {}
    exec(tree, names)
    exec(packer, names)
    exec(mask, names)
    for block in (tree, packer):
        code, comment = shown(block)[-1]
        assert str(eval(code, names)) == comment
    (_, told), _ = shown(mask)[-2:]
    assert told.startswith(f"{names['mask'].area} pairs, of {names['mask'].total ** 2}")
    assert names["mask"].to_dense().sum() == names["mask"].area
    assert torch.is_tensor(tp.collate([names["tree"]])["input_ids"])


def test_the_doctor_prints_what_it_found(monkeypatch, capsys):
    # The whole takes two minutes, and tests/unit/check/test_doctor.py looks at its parts.
    hurried = functools.partial(tp.testing.doctor, seconds=0)
    monkeypatch.setattr(tp.testing, "doctor", hurried)
    (block,) = blocks(DOCTOR)
    names = {}
    exec(block, names)
    assert names["found"].ok
    assert str(names["found"]) in capsys.readouterr().out
