"""Where memory is short there is a MemoryError, and the process lives."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "helpers/processes/short_memory.py"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")


@pytest.fixture(scope="module")
def found():
    """What each piece of work printed."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = {}
    for piece in done.stdout.split("begin ")[1:]:
        name, *lines, last = piece.splitlines()
        assert last == "alive", name
        found[name] = lines
    return found


def test_a_row_of_two_billion_tokens_is_a_memory_error(found):
    found = found["long_row"]
    # Neither holds anything of each token.
    assert found[:2] == ["pickle done", "plan done"]
    lines = found[2:]
    assert len(lines) == 8
    assert all("MemoryError" in line for line in lines), lines
    assert any("no memory for 2147483647 tokens, 8589934588 bytes" in line for line in lines)


def test_at_every_limit_of_memory_there_is_a_result_or_a_memory_error(found):
    results = [line.split()[:2] for line in found["many_nodes"]]
    assert {result for _, result in results} == {"done", "MemoryError"}
    ends = {name: {result for n, result in results if n == name} for name, _ in results}
    assert len(ends) == 8
    assert all("done" in seen for seen in ends.values())
    ran_out = {name for name, seen in ends.items() if "MemoryError" in seen}
    assert ran_out >= {"from_nodes", "plan", "window", "targets", "pickle"}


def test_windows_that_an_int32_cannot_count_are_rejected_before_they_are_listed(found):
    too_long, long = found["long_windows"]
    assert "TreeError the plan needs 9999900001 entries or more" in too_long
    assert "MemoryError no memory for" in long
