"""What every test shares: one thread, a server of processes, the seed of a case that failed."""

from __future__ import annotations

import multiprocessing
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from helpers import cases

# What the processes of the tests need, imported once: the server forks each of them.
multiprocessing.set_forkserver_preload(
    [
        "torch.distributed.fsdp",
        "torch.utils.data",
        "transformers.models.llama.modeling_llama",
        "transformers.models.qwen3.modeling_qwen3",
        "treepack.dataset",
        "treepack.hf",
    ]
)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    # Two busy OpenMP threads make the many small calls of these tests several times slower.
    try:
        import torch
    except ImportError:
        return
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _fresh_case() -> None:
    cases.current.clear()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed and cases.current:
        report.sections.append(("random case", cases.current[0]))
    return report
