"""`make gpu` on a machine that has only what it says: what it runs, reads and leaves."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benches"))
    spec = importlib.util.spec_from_file_location("gpu", ROOT / "benches/gpu.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gpu", module)
    spec.loader.exec_module(module)
    return module


def test_all_parts_end_within_nine_minutes(gpu, tmp_path):
    assert sum(part.seconds for part in gpu.parts(tmp_path).values()) <= 540 - 15
    assert list(gpu.parts(tmp_path)) == list(gpu.READERS)


def test_what_a_part_printed_is_kept_when_its_time_is_over(gpu, monkeypatch):
    def too_slow(command, *, stdout, timeout, **_):
        stdout.write("begun\n")
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(gpu.subprocess, "run", too_slow)
    found = gpu.run(gpu.Part(["-c", ""], 2), [])
    assert found["status"] == gpu.PARTIAL
    assert found["lines"] == ["begun"]
    assert gpu.has_failed("tests", gpu.PARTIAL)
    assert not gpu.has_failed("step", gpu.PARTIAL)
    assert gpu.has_failed("step", 1)


def test_the_wheel_is_unpacked_where_treepack_is_not_installed(gpu, tmp_path, monkeypatch):
    (tmp_path / "dist").mkdir()
    monkeypatch.setattr(gpu, "ROOT", tmp_path)
    assert gpu.find_treepack(tmp_path / "site") == []
    monkeypatch.setattr(gpu.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(SystemExit, match="no wheel"):
        gpu.find_treepack(tmp_path / "site")
    with zipfile.ZipFile(tmp_path / "dist/treepack-0.1.0-any.whl", "w") as wheel:
        wheel.writestr("treepack/__init__.py", "")
    assert gpu.find_treepack(tmp_path / "site") == [str(tmp_path / "site")]
    assert (tmp_path / "site/treepack/__init__.py").exists()


def test_everything_that_was_measured_is_in_the_table(gpu):
    """The lines are as the benches print them."""
    attention = [
        "reference, none: TreeMask(...), 31.0% of the square",
        f"{'':34}{'setup':>9} {'fwd':>9} {'fwd+bwd':>9} {'x ours':>7} {'memory':>8}",
        f"  {'tree attention, cuda':32}{1.2:9.1f} {10.5:9.1f} {33.25:9.1f} {1:7.2f} {12:>8}",
    ]
    step = [f"{'packed trees':34}{0.5:9.3f}{21.4:15.2f}{'1.0 x':>10}{'4.1':>8}"]
    tests = ["tests/gpu/a.py::test_x[a b] PASSED [ 1%]", "tests/gpu/a.py::test_y FAILED [ 2%]"]
    found = {"ok": False, "wrong": ["fa3"], "findings": []}
    table = gpu.table(
        {
            "machine": "a machine",
            "parts": {
                "doctor": {"status": 1, "lines": [], "found": found},
                "tests": {"status": gpu.PARTIAL, "lines": tests},
                "attention": {"status": 0, "lines": attention},
                "step": {"status": 0, "lines": step},
            },
        }
    )
    for line in (
        "| doctor | all checks | wrong: fa3 |",
        "| tests/gpu |  | 1 failed, 1 passed |",
        "| tests/gpu | failed | tests/gpu/a.py::test_y |",
        "| tests |  | ended with: out of time |",
        "| attention, reference, none | tree attention, cuda | forward 10.5 ms, with backward "
        "33.2 ms, 1.00 x ours |",
        "| step | packed trees | 0.500 s a row, 21.40 annotations/s |",
    ):
        assert line in table.splitlines()


def test_a_part_leaves_one_json_and_one_table(gpu, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--only", "tests", "--out", str(tmp_path)])
    code = "print('tests/gpu/a.py::test_y FAILED [ 2%]'); raise SystemExit(1)"
    monkeypatch.setattr(gpu, "parts", lambda _: {"tests": gpu.Part(["-c", code], 60)})
    assert gpu.main() == 1
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", "table.md"}
    assert json.loads((tmp_path / "results.json").read_text())["parts"]["tests"]["status"] == 1
    assert "1 failed" in (tmp_path / "table.md").read_text()


def test_its_pytest_runs_without_the_settings_and_plugins_of_the_checkout(gpu, tmp_path):
    arguments = gpu.parts(tmp_path)["tests"].arguments
    assert arguments[-2:] == ["tests/gpu/test_kernels.py", "tests/gpu"]
    done = subprocess.run(
        [sys.executable, *arguments[:-2], "tests/gpu/test_batches.py", "-k", "pin_thread"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={
            **os.environ,
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTHONPATH": os.pathsep.join([str(ROOT / "python"), str(ROOT / "tests"), str(ROOT)]),
        },
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout
    assert gpu.of_tests(done.stdout.splitlines(), None)[0][2] == "2 passed"
