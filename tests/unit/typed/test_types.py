"""The types that users see are precise in what they write, and a mistake is found."""

from __future__ import annotations

from pathlib import Path

import pytest
import treepack

api = pytest.importorskip("mypy.api")

HERE = Path(__file__).parent


@pytest.fixture
def check(pytestconfig, monkeypatch, tmp_path_factory):
    """Run mypy over a file; gives what it said, empty if nothing is wrong."""
    # The package that is tested, as an installed one; torch is read once for all runs.
    monkeypatch.setenv("PYTHONPATH", str(Path(treepack.__file__).parents[1]))
    kept = getattr(pytestconfig, "cache", None)
    cache = kept.mkdir("mypy-of-users") if kept else tmp_path_factory.mktemp("mypy")
    options = [f"--config-file={HERE / 'users.ini'}", f"--cache-dir={cache}", "--no-error-summary"]

    def run(path):
        told, failed, _ = api.run([*options, str(path)])
        assert not failed
        return told

    return run


def test_what_users_write_has_precise_types(check):
    pytest.importorskip("torch")
    assert check(HERE / "users_script.py") == ""


def test_a_mistake_is_found(check, tmp_path):
    path = tmp_path / "mistaken.py"
    path.write_text(
        "from typing import assert_type\n"
        "import treepack as tp\n"
        "from torch import Tensor\n"
        "def use(batch: tp.PackedBatch) -> None:\n"
        '    assert_type(batch["treepack"], Tensor)\n'
        '    batch["input_ids"].no_such_name\n'
    )
    told = check(path).splitlines()
    assert [line.rpartition("[")[2] for line in told] == ["assert-type]", "attr-defined]"]
