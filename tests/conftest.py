"""What every test shares: one thread, and the seed of the case that failed."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from helpers import cases


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
