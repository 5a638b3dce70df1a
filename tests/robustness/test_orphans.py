"""A trainer that is killed leaves no worker behind."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from helpers.cases import FACTOR

TESTS = Path(__file__).parents[1]
KILLS = 3 if FACTOR >= 10 else 1
LIMIT = 120
"""Seconds after which a worker is taken for one that stays for ever, on a busy machine too."""

CODE = textwrap.dedent(
    """
    import os, sys
    from torch.utils.data import DataLoader
    from helpers.tree_sources import dataset

    if __name__ == "__main__":
        loader = DataLoader(
            dataset(epochs=None, virtual_shards=2), batch_size=None, num_workers=2,
            multiprocessing_context=sys.argv[1],
        )
        iterator = iter(loader)
        for _ in range(4):
            next(iterator)
        # Another fork of the trainer, which holds every pipe open and lives on.
        if not os.fork():
            os.execvp(sys.executable, [sys.executable, "-c", "input()"])
        print(*(worker.pid for worker in iterator._workers), flush=True)
        input()
    """
)


@pytest.mark.parametrize("start", ["fork", "forkserver", "spawn"])
def test_workers_end_with_a_trainer_that_is_killed(start, tmp_path):
    script = tmp_path / "trainer.py"
    script.write_text(CODE)
    for _ in range(KILLS):
        trainer = subprocess.Popen(
            [sys.executable, str(script), start],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])},
            text=True,
        )
        with trainer:
            ends = [os.pidfd_open(int(pid)) for pid in trainer.stdout.readline().split()]
            assert len(ends) == 2
            trainer.send_signal(signal.SIGKILL)
            trainer.wait()
            left = set(ends)
            while left:
                gone, _, _ = select.select(left, [], [], LIMIT)
                assert gone, f"{len(left)} of 2 workers live on"
                left -= set(gone)
        for end in ends:
            os.close(end)
