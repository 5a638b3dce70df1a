"""A training job that is killed and goes on elsewhere ends with the same parameters."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
from train_ranks import Job, train

TESTS = Path(__file__).parent.parent
STEPS, DIE_AT = 12, 7
TOLERANCE = 1e-12
"""In float64: with other ranks the gradients of a step are summed in another order."""


def torchrun(folder, ranks, workers, die_at=0):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={ranks}", str(TESTS / "train_ranks.py"), str(folder)]
    command += map(str, (workers, STEPS, die_at))
    return subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)


def test_two_ranks_are_killed_and_one_goes_on(tmp_path):
    assert torchrun(tmp_path, ranks=2, workers=2, die_at=DIE_AT).returncode != 0
    assert torch.load(tmp_path / "checkpoint.pt")["step"] == DIE_AT - 1
    done = torchrun(tmp_path, ranks=1, workers=4)
    assert done.returncode == 0, done.stderr
    actual = torch.load(tmp_path / "checkpoint.pt")
    assert actual["step"] == STEPS

    (tmp_path / "whole").mkdir()
    whole = Job(tmp_path / "whole", rank=0)
    start = [parameter.clone() for parameter in whole.model.parameters()]
    train(whole, whole.model, 1, 0, STEPS)
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(actual["model"][name], value, rtol=0, atol=TOLERANCE)
    moved = zip(start, whole.model.parameters(), strict=True)
    assert all((one - other).abs().max() > 0.1 for one, other in moved)
