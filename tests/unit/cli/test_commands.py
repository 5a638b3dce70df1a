"""The commands as a user runs them: what they print, write and end with."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import treepack as tp
from helpers import tiny_models
from helpers.cases import FACTOR
from PIL import Image
from treepack.cli import COMMANDS, main
from treepack.measuring import measurer

BUDGETS = ("--budget", "tokens=512", "--budget", "patches=256")
NO_TORCH = (
    "import sys; sys.modules.update(torch=None, transformers=None, pyarrow=None, rich=None)\n"
    "from treepack.cli import main; sys.exit(main())"
)
slow = pytest.mark.skipif(FACTOR <= 1, reason="imports transformers anew; TREEPACK_CASES=2")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a processor, records and their images."""
    folder = tmp_path_factory.mktemp("home")
    processor = tiny_models.qwen3_vl_processor.__wrapped__()
    processor.save_pretrained(folder / "model")
    (folder / "images").mkdir()
    records = []
    for number in range(12):
        Image.fromarray(tiny_models.photo(number)).save(folder / f"images/{number}.png")
        records += [
            tiny_models.record(f"<image>\nQuestion {turn}?", "An answer.", image=f"{number}.png")
            for turn in range(1 + number % 3)
        ]
    write_lines(folder / "train.jsonl", records)
    write_lines(folder / "costs.jsonl", trace())
    return folder


def write_lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def trace(n=300):
    rng = np.random.default_rng(0)
    pairs = zip(rng.integers(20, 200, n).tolist(), rng.integers(1, 90, n).tolist(), strict=True)
    return [{"key": f"example {i}", "tokens": t, "patches": p} for i, (t, p) in enumerate(pairs)]


@pytest.fixture
def run(home, monkeypatch, capfd):
    """Run a command in the folder; gives exit code, stdout and stderr."""
    monkeypatch.chdir(home)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")

    def call(*arguments):
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        return code, *capfd.readouterr()

    return call


def measure(run, *more):
    found = run("measure", "train.jsonl", "--images", "images", "--processor", "./model", *more)
    assert found[0] == 0, found
    return found


def is_plain(text):
    return "\x1b" not in text and max(map(len, text.splitlines())) <= 80


def user(home, *command, code=0):
    """The command in a process of its own, not on a terminal."""
    env = {**os.environ, "COLUMNS": "80", "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, *command], cwd=home, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr
    return done.stdout, done.stderr


def test_simulating_needs_numpy_alone(home):
    page = home / "page.html"
    arguments = ("simulate", "costs.jsonl", *BUDGETS, "--page", page.name)
    out, err = user(home, "-c", NO_TORCH, *arguments)
    assert is_plain(out)
    assert not err
    assert "- The budget that binds is " in out
    assert "http" not in page.read_text()
    out, err = user(home, "-c", NO_TORCH, "simulate", "costs.parquet", *BUDGETS, code=1)
    assert (out, err) == ("", "treepack: error: there is no file costs.parquet\n")


def test_parquet_without_pyarrow_names_the_extra(run, monkeypatch, home):
    (home / "some.parquet").touch()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    code, _, err = run("simulate", "some.parquet", *BUDGETS)
    assert code == 1
    assert err.count("\n") == 1
    assert "pip install 'treepack[data]'" in err
    assert run("measure", "train.jsonl", "--processor", "model", "--out", "a.parquet")[0] == 1


@slow
def test_the_four_commands_in_processes_of_their_own(home):
    data = ("train.jsonl", "--images", "images", "--processor", "./model")
    out, _ = user(home, "-m", "treepack", "measure", *data, "--out", "all.parquet")
    assert is_plain(out)
    user(home, "-m", "treepack", "simulate", "all.parquet", *BUDGETS)
    out, _ = user(home, "-m", "treepack", "show", *data, *BUDGETS, "--row", "0")
    assert is_plain(out)
    code = 0 if hasattr(tp, "pack") else 1
    user(home, "-m", "treepack", "pack", "all.parquet", *BUDGETS, "--out", "packs", code=code)


def test_measure_writes_a_table_that_packs(run, home):
    _, out, err = measure(run, "--out", "costs.parquet", "--workers", "0")
    assert is_plain(out)
    assert out.startswith("costs.parquet: 12 examples in ")
    assert not err
    table = tp.costs.read(home / "costs.parquet")
    source = tp.group_conversations("train.jsonl", "images")
    processor = tiny_models.qwen3_vl_processor.__wrapped__()
    family = tp.families.find(processor)
    for index, example in enumerate(source):
        assert family.measure(example).items() <= table[index].items()
    budgets = {"tokens": 512, "patches": 256}
    dataset = tp.PackedDataset(source, processor=processor, costs=table, budgets=budgets)
    assert sum(len(batch["treepack"].keys) for batch in dataset) == 12


def test_examples_over_a_budget_are_named(run, home):
    measure(run, "--out", "named.parquet", "--workers", "0")
    tokens = tp.costs.read(home / "named.parquet").columns["tokens"]
    limit = int(tokens.max()) - 1
    code, out, _ = run("simulate", "named.parquet", "--budget", f"tokens={limit}")
    names = [f"{index}.png" for index in np.flatnonzero(tokens > limit)]
    assert code == 0
    assert f"They are {', '.join(names[:5])}." in " ".join(out.split())


def test_measure_skips_or_names_what_it_cannot_read(run, home):
    broken = [tiny_models.record("<image>\nQ?", "A.", image=f"{name}.png") for name in (0, "gone")]
    write_lines(home / "broken.jsonl", [*broken, {"image": "0.png", "caption": 5}])
    arguments = ("measure", "broken.jsonl", "--images", "images", "--processor", "./model")
    arguments += ("--workers", "0", "--out", "broken.parquet")
    code, _, err = run(*arguments)
    assert code == 1
    assert re.fullmatch(r"treepack: error: broken.jsonl:3: .*\n", err)
    code, out, _ = run(*arguments, "--on-error", "skip")
    assert code == 0
    assert "1 record made no sense" in out
    assert re.search(r"1 could not be measured \(column error\).*gone\.png", " ".join(out.split()))
    assert tp.costs.read(home / "broken.parquet").unmeasured.tolist() == [1]


def test_ctrl_c_leaves_whole_parts_and_130(run, home, monkeypatch):
    whole = measurer.Measurer.measure

    def interrupted(self, start, end):
        if start:
            raise KeyboardInterrupt
        return whole(self, start, end)

    monkeypatch.setattr("treepack.measuring.measure.LEAST", 5)
    monkeypatch.setattr(measurer.Measurer, "measure", interrupted)
    data = ("train.jsonl", "--images", "images", "--processor", "./model", "--workers", "0")
    code, out, err = run("measure", *data, "--out", "cut.parquet")
    assert (code, out, err) == (
        130,
        "",
        "treepack: interrupted; the same command goes on from there\n",
    )
    names = sorted(path.name for path in (home / "cut.parquet.parts").iterdir())
    assert names == ["000000000000.parquet", "about.json"]
    monkeypatch.setattr(measurer.Measurer, "measure", whole)
    measure(run, "--out", "cut.parquet", "--workers", "0")
    assert len(tp.costs.read(home / "cut.parquet")) == 12


def test_show_writes_the_page_of_a_row(run, home):
    data = ("train.jsonl", "--images", "images", "--processor", "./model", *BUDGETS)
    code, out, _ = run("show", *data, "--row", "1", "--order", "kept", "--out", "row.html")
    assert code == 0
    assert re.fullmatch(
        r"row.html: row 1, \d+ examples?, tokens [\d.]+% full, patches [\d.]+% full\n", out
    )
    page = (home / "row.html").read_text()
    budgets = {"tokens": 512, "patches": 256}
    processor = tiny_models.qwen3_vl_processor.__wrapped__()
    source = tp.group_conversations("train.jsonl", "images")
    settings = {"budgets": budgets, "processor": processor, "shuffle": False}
    rows = [batch["treepack"].keys for batch in tp.PackedDataset(source, **settings)]
    assert all(key in page for key in rows[1])
    assert page.count("data:image/jpeg") == len(rows[1])
    # The processor names the tokens of its images.
    assert "image tokens" in page
    assert "guessed" not in page
    code, _, err = run("show", *data, "--row", "99")
    assert code == 1
    assert f"its 12 examples make {len(rows)} rows" in err


def test_json_is_one_object_with_advice(run):
    code, out, _ = run("simulate", "costs.jsonl", *BUDGETS, "--json", "--pool", "8,16")
    found = json.loads(out)
    assert code == 0
    assert [outcome["pool_size"] for outcome in found["outcomes"]] == [8, 16]
    assert found["advice"][0]["kind"] == "binding"
    budgets = {"tokens": [t["tokens"] for t in trace()], "patches": [t["patches"] for t in trace()]}
    same = tp.simulate(budgets, {"tokens": 512, "patches": 256}, pool_sizes=[8, 16])
    assert found == json.loads(json.dumps(same.to_dict()))


def test_mixtures_npy_files_and_several_budgets(run, home):
    code, out, _ = run("simulate", "--mixture", "sft", "--sample", "2000", "--pool", "16")
    assert code == 0
    assert "Raise crops from 128" in out
    np.save(home / "costs.npy", [[t["tokens"], t["patches"]] for t in trace()])
    code, out, _ = run(
        "simulate", "costs.npy", "--budget", "tokens=512,1024", "--budget=patches=256"
    )
    assert code == 0
    assert "Rows of tokens=1,024, patches=256" in out


def test_a_terminal_gets_styled_tables_unless_no_color_is_set(run, monkeypatch):
    pytest.importorskip("rich")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    plain = run("simulate", "costs.jsonl", *BUDGETS, "--pool", "8")[1]
    monkeypatch.delenv("NO_COLOR")
    styled = run("simulate", "costs.jsonl", *BUDGETS, "--pool", "8")[1]
    assert is_plain(plain)
    assert "─" in styled
    assert "• The budget that binds is" in styled
    unstyled = re.sub(r"\x1b\[[0-9;]*m", "", styled)
    assert max(map(len, unstyled.splitlines())) <= 80


def test_pack_writes_packs(run, home):
    code, out, _ = run("pack", "costs.jsonl", *BUDGETS, "--out", "packs.parquet")
    assert code == 0
    packs = tp.packing.Packs.load(home / "packs.parquet")
    assert out.startswith(f"packs.parquet: {len(packs):,} packs of {len(packs.members):,} examples")
    assert "times the fewest rows" in out
    again = ("--out", "again.npz", "--json", "--no-early", "--effort", "best", "--seed", "4")
    told = json.loads(run("pack", "costs.jsonl", *BUDGETS, *again, "--window", "64")[1])
    given = {"seed": 4, "effort": "best", "early": False, "window": 64, "order": "shuffled"}
    given |= {"oversize": "raise", "examples": 300, "budgets": {"tokens": 512, "patches": 256}}
    assert told["settings"] == given
    assert tp.packing.Packs.load(home / "again.npz").statistics == told["statistics"]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ((), 2, "the following arguments are required: COMMAND; see treepack --help"),
        (("simulate",), 2, "give a file of costs, or --mixture; see treepack simulate --help"),
        (("simulate", "costs.jsonl"), 2, "give a --budget"),
        (("simulate", "costs.jsonl", "--budget", "tokens"), 2, "'tokens' is not NAME=NUMBER"),
        (("simulate", "costs.jsonl", "--budget", "tokens=0"), 2, "is not NAME=NUMBER"),
        (("simulate", "costs.jsonl", *BUDGETS[:2] * 2), 2, "a budget is given twice"),
        (("simulate", "costs.jsonl", *BUDGETS, "--pool", "a"), 2, "'a' is not a list of numbers"),
        (("simulate", "costs.jsonl", "--budget", "crops=9"), 1, "the columns are"),
        (("simulate", "costs.jsonl", "--budget", "tokens=9"), 1, "no example fits"),
        (("simulate", "train.jsonl", "--budget", "tokens=9"), 1, "train.jsonl:1: has no integers"),
        (("pack", "costs.jsonl", "--out", "a", "--budget", "tokens=1,2"), 2, "give one number"),
        (("show", "train.jsonl", "--processor", "./none"), 1, "./none: there is no such folder"),
        (("show", "train.jsonl", "--processor", "./images"), 1, "no processor can be read from it"),
        (("show", "none.jsonl", "--processor", "./model"), 1, "none.jsonl"),
        (("show", "train.jsonl", "--processor", "m", "--row", "-1"), 2, "rows count from 0"),
        (("measure", "a", "--processor", "m", "--out", "no/a"), 1, "there is no folder no"),
    ],
)
def test_errors_are_one_line_and_say_whose_they_are(run, arguments, code, says):
    found, out, err = run(*arguments)
    assert (found, out) == (code, "")
    assert re.fullmatch(r"treepack: error: .*\n", err)
    assert says in err


@pytest.mark.parametrize("command", [module.__name__.split(".")[-1] for module in COMMANDS])
def test_help_has_an_example_that_parses(run, command):
    code, out, _ = run(command, "--help")
    assert code == 0
    assert re.search(rf"example:\n  treepack {command} ", out)
    assert all(len(line) <= 100 for line in out.splitlines())


def test_the_version_and_the_script():
    project = (Path(__file__).parents[3] / "pyproject.toml").read_text()
    assert 'treepack = "treepack.cli:main"' in project
    assert main(["--version"]) == 0
