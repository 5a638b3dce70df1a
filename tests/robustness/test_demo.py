"""Does the demo run on other people's data, and does it notice when packing is wrong?"""

import json
import re
import sys
from pathlib import Path

import pytest
import torch
import treepack as tp
from helpers.tiny_models import photo, record
from PIL import Image
from treepack.attention import TreePlan

EXAMPLES = Path(__file__).parents[2] / "examples"
MODULES = ("baseline", "data", "models", "more_models", "packed", "report", "train")


@pytest.fixture
def demo(monkeypatch):
    """The demo's modules, whose names are too common to leave them imported."""
    monkeypatch.syspath_prepend(EXAMPLES)
    for name in MODULES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    import train

    yield train
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.fixture
def data(tmp_path):
    records = [record("Say it.", "It.", id="text")]
    for i in range(3):
        Image.fromarray(photo(i, 60, 80)).save(tmp_path / f"{i}.png")
        records += [
            record(f"<image>\nQuestion {j}?", f"Answer {i + j}.", image=f"{i}.png")
            for j in range(i + 1)
        ]
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


def arguments(data, *more):
    out = data.parent / "out"
    small = ["--budget", "tokens=1200", "--workers", "0", "--out", str(out)]
    return ["--data", str(data), "--images", str(data.parent), *small, *more]


@pytest.mark.parametrize(
    "family", ["gemma3", "internvl", "molmo2", "qwen3_5", "qwen3_vl", "smolvlm"]
)
def test_it_runs_on_data_of_ones_own(demo, data, family, capsys):
    if family == "qwen3_5":
        pytest.importorskip("tree_recurrence")
    assert demo.main(arguments(data, "--family", family)) == 0
    told = capsys.readouterr().out
    sequences = re.search(r"sequences +(\d+) +(\d+) +(\d+)", told).groups()
    assert sequences[:2] == ("7", "7")
    assert int(sequences[2]) < 4
    picture = (data.parent / "out" / "pack.html").read_text()
    assert "Question 0?" in picture
    assert picture.count("<img") >= 1


def test_both_ways_train_on_the_same(demo, data):
    source = tp.group_conversations(data)[:]
    setup = demo.FAMILIES["qwen3_vl"](demo.texts(source))
    setup.budgets["tokens"] = 256
    it = demo.Demo(source, setup, 0)
    difference, rows = it.compare()
    runs = it.train(rows)
    assert difference < 1e-5
    assert {run.annotations for run in runs} == {7}
    assert {run.steps for run in runs} == {len(rows)}
    assert max(run.loss for run in runs) - min(run.loss for run in runs) < 1e-3
    assert runs[0].tokens == 7 * 256
    assert runs[1].useful == runs[0].useful
    assert runs[2].useful == runs[2].tokens < runs[1].tokens


def test_a_wrong_mask_is_noticed(demo, data, monkeypatch, capsys):
    right = TreePlan.from_mask

    def one_long_sequence(mask):
        return right(tp.TreeMask.from_nodes([mask.used], [-1], total=mask.total))

    monkeypatch.setattr(TreePlan, "from_mask", staticmethod(one_long_sequence))
    assert demo.main(arguments(data, "--family", "qwen3_vl")) == 1
    assert "more than rounding" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("budget", "message"), [("crop=3", "not measured by family"), ("tokens=50", "raise budgets")]
)
def test_an_error_says_what_to_do(demo, data, budget, message, capsys):
    assert demo.main(arguments(data, "--budget", budget)) == 2
    assert message in " ".join(capsys.readouterr().out.split())


def test_the_demo_has_real_data(demo, tmp_path):
    path, images = sys.modules["data"].write_demo_data(tmp_path)
    source = tp.group_conversations(path, images=images)
    photographs = [e for e in source if e.media and not e.key.startswith("shapes")]
    assert len(photographs) == 13
    assert all(4 <= len(example.branches) <= 10 for example in photographs)
    assert sum(not example.media for example in source) == 12
    for example in source:
        for medium in example.media:
            with Image.open(medium.value) as image:
                assert min(image.size) >= 64
    for answer in (turn.answer for e in photographs for rows in e.branches for turn in rows):
        for x, y in re.findall(r'x\d*="([\d.]+)" y\d*="([\d.]+)"', answer):
            assert 0 < float(x) < 100
            assert 0 < float(y) < 100


def test_the_tokenizer_loses_nothing(demo):
    texts = ["A cat.", "Zwölf Boxkämpfer jagen Viktor\n"]
    tokenizer = sys.modules["models"].train_tokenizer(texts, ["<image>"])
    for text in [*texts, "something else: 漢字 <image>"]:
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.convert_tokens_to_ids("<image>") == len(tokenizer) - 1
    assert torch.tensor(tokenizer.encode("cat")).max() < len(tokenizer)
