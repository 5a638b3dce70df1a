"""A training job that is killed and goes on elsewhere ends with the same parameters.

``TREEPACK_CASES=5`` or more starts the first job with torchrun.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.cases import FACTOR
from helpers.processes.ranks import run_ranks
from helpers.processes.train_ranks import MODELS, Job, train, train_all

TESTS = Path(__file__).parent.parent
STEPS, DIE_AT = 12, 7
FAR = {"tiny": 0.1, "molmo2": 0.005}
"""How far each parameter must have moved, for the comparison to say something."""

TOLERANCE = {"tiny": 1e-12, "molmo2": 1e-6}
"""In float64: with other ranks the gradients of a step are summed in another order, and norms and
rotary positions of Molmo2 compute in float32 whatever the model's precision."""


def train_to(rank, world, folder, workers, die_at=0):
    train_all(folder, workers, STEPS, die_at)


def torchrun(folder):
    """Two ranks as a launcher starts them; each imports everything anew."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "helpers.processes.train_ranks", *map(str, (folder, 2, STEPS, DIE_AT))]
    done = subprocess.run(
        command, cwd=TESTS, capture_output=True, text=True, timeout=250, check=False
    )
    assert done.returncode != 0
    assert "SIGKILL" in done.stderr, done.stderr


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Of each model after two ranks were killed, and after one went on: one job for both models."""
    folder = tmp_path_factory.mktemp("job")
    if FACTOR < 5:
        with pytest.raises(torch.multiprocessing.ProcessExitedException, match="SIGKILL"):
            run_ranks(2, train_to, folder, 2, DIE_AT)
    else:
        torchrun(folder)
    before = {name: torch.load(folder / f"{name}.pt") for name in MODELS}
    run_ranks(1, train_to, folder, 4)
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
