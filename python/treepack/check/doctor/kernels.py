"""Each backend that can run here, on each kind of call, forward and backward."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch

from treepack.attention import backends
from treepack.attention.backends import cuda
from treepack.check.doctor.exactness import Errors, Problem, pose, solve
from treepack.check.doctor.findings import SKIPPED, Finding, from_errors
from treepack.check.doctor.rows import CASES, HALF, Case, Row, rows
from treepack.check.doctor.session import Session, restore
from treepack.errors import AttentionError
from treepack.options import AttentionBackend

LENGTH_ON_GPU = 8
"""How many times longer rows are there."""

SEGMENTS = 5
"""Of a launch, where several are asked for."""

FLASH = frozenset({"cuda", "fa3", "fa4"})
"""Backends that divide calls into launches."""


def check_backends(session: Session) -> None:
    """Add what every backend gives on every case, or why it cannot run here."""
    for name in sorted({*map(backends.checked_name, backends.NAMES)} - {"flex"}):
        device = torch.device("cpu") if name == "cpu" else session.device
        reason = why_not(name, device)
        if reason:
            session.tell(name, "all kinds of calls", SKIPPED, reason)
            continue
        for case in CASES:
            if case.launches and name not in FLASH:
                continue
            find = functools.partial(check_case, name, case, device)
            session.run(name, case.name, find, lenient=name in ("fa3", "fa4") and case.size > 128)
        restore()


def why_not(backend: str, device: torch.device) -> str:
    """Why a backend cannot run on a device; empty if it can. FA3 and FA4 are activated."""
    if backend in FLASH and device.type != "cuda":
        return "no GPU was found"
    try:
        backends.load(backend).check(torch.zeros(1, 1, 64, dtype=torch.bfloat16, device=device))
    except AttentionError as error:
        return str(error)[:200]
    return ""


def dtypes_of(backend: str) -> tuple[torch.dtype, ...]:
    """What a backend is asked for."""
    return HALF if backend in FLASH else (*HALF, torch.float32)


def check_case(backend: AttentionBackend, case: Case, device: torch.device) -> Finding:
    """Errors of a backend in each of its dtypes."""
    found: dict[str, Errors] = {}
    for dtype in dtypes_of(backend):
        with several_launches() if case.launches else nullcontext():
            found[str(dtype).removeprefix("torch.")] = solve(
                problem_of(case.row, case.heads, case.size, dtype, device), backend=backend
            )
    return from_errors(backend, case.name, found)


@functools.cache
def rows_on(kind: str) -> dict[str, Row]:
    """The rows for a kind of device."""
    return rows(LENGTH_ON_GPU if kind == "cuda" else 1)


@functools.lru_cache(maxsize=64)
def problem_of(
    row: str, heads: tuple[int, int], size: int, dtype: torch.dtype, device: torch.device
) -> Problem:
    """The same problem for every backend."""
    rng = np.random.default_rng(0)
    return pose(rows_on(device.type)[row], rng, device, dtype, heads, size)


@contextmanager
def forgotten_problems() -> Iterator[None]:
    """Free the tensors of the problems afterwards."""
    try:
        yield
    finally:
        problem_of.cache_clear()


@contextmanager
def several_launches() -> Iterator[None]:
    """Let the kernels take only a few segments at a time, as they do with thousands."""
    # The backends are modules, and their Protocol knows nothing of this constant.
    module: Any = cuda
    before = module.LAUNCH
    module.LAUNCH = SEGMENTS
    try:
        yield
    finally:
        module.LAUNCH = before
