"""A training job that is killed and goes on elsewhere ends with the same parameters."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.processes.train_ranks import MODELS, Job, train

TESTS = Path(__file__).parent.parent
STEPS, DIE_AT = 12, 7
FAR = {"tiny": 0.1, "molmo2": 0.005}
"""How far each parameter must have moved, for the comparison to say something."""

TOLERANCE = {"tiny": 1e-12, "molmo2": 1e-6}
"""In float64: with other ranks the gradients of a step are summed in another order, and norms and
rotary positions of Molmo2 compute in float32 whatever the model's precision."""


def torchrun(folder, ranks, workers, die_at=0):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={ranks}", "-m", "helpers.processes.train_ranks"]
    command += map(str, (folder, workers, STEPS, die_at))
    return subprocess.run(
        command, cwd=TESTS, capture_output=True, text=True, timeout=200, check=False
    )


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Of each model after two ranks were killed, and after one went on: one job for both models."""
    folder = tmp_path_factory.mktemp("job")
    killed = torchrun(folder, ranks=2, workers=2, die_at=DIE_AT)
    assert killed.returncode != 0
    assert "SIGKILL" in killed.stderr, killed.stderr
    before = {name: torch.load(folder / f"{name}.pt") for name in MODELS}
    done = torchrun(folder, ranks=1, workers=4)
    assert done.returncode == 0, done.stderr
    return {name: (before[name], torch.load(folder / f"{name}.pt")) for name in MODELS}


@pytest.mark.parametrize("kind", MODELS)
def test_two_ranks_are_killed_and_one_goes_on(checkpoints, tmp_path, kind):
    before, actual = checkpoints[kind]
    assert before["step"] == DIE_AT - 1
    assert actual["step"] == STEPS

    whole = Job(tmp_path, rank=0, model=kind)
    start = {name: weight.clone() for name, weight in whole.model.named_parameters()}
    assert list(train(whole, whole.model, 1, 0, STEPS)) == list(range(1, STEPS + 1))
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(actual["model"][name], value, rtol=0, atol=TOLERANCE[kind])
    for name, weight in whole.model.named_parameters():
        # A softmax does not depend on the bias of its keys, so that has no gradient.
        if not name.endswith("k_proj.bias"):
            assert (weight - start[name]).abs().max() > FAR[kind], name
