"""Does Ray itself measure what one process measures? Needs ``treepack[ray]``."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from unit.measuring import ray_tables

pytest.importorskip("pyarrow")
pytest.importorskip("ray.data")


@pytest.fixture(scope="module")
def there():
    # The actors are given the environment of the process that starts the cluster.
    path = os.pathsep.join(filter(None, sys.path))
    environment = {**os.environ, "PYTHONPATH": path, "RAY_USAGE_STATS_ENABLED": "0"}
    # A machine that is busy takes longer to start one than Ray waits by itself.
    environment |= {"RAY_raylet_start_wait_time_s": "400"}
    command = [sys.executable, "-m", "unit.measuring.ray_tables"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-4_000:]
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ray_tables.sources())
def test_a_cluster_gives_the_same_table(there, name):
    here = ray_tables.table(ray_tables.sources()[name], workers=0)
    assert there[name] == here
    assert list(here["reasons"]) == ([str(i) for i in ray_tables.BAD] if name == "bad" else [])


def test_the_first_example_that_fails_there_is_named_here(there):
    assert "example 3: " in there["error"]
    assert "no such file 3.png" in there["error"]
