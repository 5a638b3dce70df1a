"""docs/data.md: every record is read into what stands below it, every name in it is true."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import treepack as tp
from treepack.errors import DataError
from treepack.sources.conversations import read_record
from treepack.sources.records import dialogue, reader, unsupported
from treepack.sources.records.formats import find, formats
from treepack.sources.records.supply import OPTION_NAMES

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
RECORDS = re.findall(r"```json\n(.*?)```\n```\n(.*?)```", PAGE, re.DOTALL)
PYTHON = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def written(example):
    """The branches of an example as the page writes them."""
    for n, (turns, role) in enumerate(zip(example.branches, example.roles, strict=True)):
        weight = turns[0].weight
        notes = [role] if role else [f"weight {weight}"] if weight != 1 else []
        notes += [f"{name} {numbers[n]}" for name, numbers in example.channels.items()]
        yield " | ".join(f"{t.question} -> {t.answer}" for t in turns) + "".join(
            f" ({note})" for note in notes
        )


def section(title):
    return re.search(rf"## {title}\n(.*?)(?=\n## |\Z)", PAGE, re.DOTALL)[1]


@pytest.mark.parametrize("number", range(len(RECORDS)))
def test_a_record_is_read_into_what_stands_below_it(number):
    record, result = RECORDS[number]
    example = read_record(json.loads(record), "record")
    assert "\n".join(written(example)) + "\n" == result
    assert example.media[0].value == example.key == "cat.jpg"


def test_every_format_has_a_line_in_the_table_and_a_record():
    names = re.findall(r"^\| `(\w+)` \|", section("Formats"), re.MULTILINE)
    assert sorted(names) == list(formats())
    modules = [find(json.loads(record), "record") for record, _ in RECORDS]
    assert modules == [formats()[name] for name in names]


def test_the_code_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("train.jsonl").write_text("\n".join(json.dumps(json.loads(r)) for r, _ in RECORDS))
    point = {"image": "a.jpg", "label": "cats", "points": [{"x": 1, "y": 2.25}]}
    Path("points.jsonl").write_text(json.dumps(point))
    names = {"tp": tp}
    exec(PYTHON[0], names)
    # All of them show one cat, one of them with a system text, and one with rewards.
    assert len(names["source"]) == 3
    exec(PYTHON[1], names)
    assert names["source"][0].branches[0][0].answer == '<point x="1.0" y="2.2"/>'


def test_what_is_honoured_is_on_the_page():
    text = section("Fields")
    for name in (*reader.SYSTEM, *dialogue.WEIGHTS, *reader.WEIGHTS, *set(OPTION_NAMES.values())):
        assert f"`{name}`" in text


def test_what_is_rejected_is_rejected():
    text = section("What is rejected, and why")
    tables = (unsupported.RECORD, unsupported.TURN, unsupported.MEDIUM, unsupported.QUESTION)
    known = set().union(*tables, unsupported.SPEAKERS, unsupported.SHAPES, unsupported.HISTORY)
    named = set(re.findall(r"`(\w+)`", text)) - {"assistant", "objects", "image_path", "format"}
    assert named <= known
    with pytest.raises(DataError, match="name it in 'image'"):
        read_record({"image_path": "a.jpg", "question": "Q", "answer": "A"}, "r")


def test_text_before_media_goes_where_the_page_says():
    lines = re.findall(r"^(.*<image>.*?)  +->  (.*?)(?:  .*)?$", section("Text before media"), re.M)
    assert len(lines) == 3
    for said, result in lines:
        text = said.replace("\\n", "\n")
        turns = [{"from": "human", "value": text}, {"from": "gpt", "value": "!"}]
        images = ["a"] * text.count("<image>")
        example = read_record({"images": images, "conversations": turns}, "r")
        parts = [part for text in example.texts for part in (text, "[image]")]
        assert " ".join(filter(None, [*parts, example.branches[0][0].question])) == result
