"""Checks run one after the other: one that fails is a finding, and time is limited."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from treepack.attention import implementations
from treepack.check.doctor.findings import SKIPPED, WRONG, Diagnosis, Finding
from treepack.options import CheckResult

MOST_TOLD = 200
"""Characters of an error that the table shows."""


class Session:
    """Checks on one device.

    Args:
        device: the GPU, or the CPU.
        seconds: after which no further check begins.
    """

    def __init__(self, device: torch.device, seconds: float) -> None:
        self.device = device
        self.findings: list[Finding] = []
        self.started: float = time.monotonic()
        self.seconds = seconds
        self.broken_by: str = ""
        # Asked for now: a GPU that has stopped working may not tell any more.
        self.name: str = torch.cuda.get_device_name(device) if self.has_gpu else "the CPU"

    @property
    def has_gpu(self) -> bool:
        """Whether the checks run on a GPU."""
        return bool(self.device.type == "cuda")

    def run(
        self, part: str, check: str, find: Callable[[], Finding], lenient: bool = False
    ) -> None:
        """Add what a check finds, or how it fails.

        Args:
            part: what is checked, for a check that fails.
            check: its name.
            find: the check.
            lenient: whether an error says that the kernels do not support this, and nothing more.
        """
        self.findings.append(self._found(part, check, find, lenient))

    def tell(self, part: str, check: str, result: CheckResult, note: str = "") -> None:
        """Add a line."""
        self.findings.append(Finding(part, check, result, note))

    def diagnosis(self) -> Diagnosis:
        """All that was found."""
        return Diagnosis(self.findings, self.name, time.monotonic() - self.started)

    def _found(self, part: str, check: str, find: Callable[[], Finding], lenient: bool) -> Finding:
        if self.broken_by:
            return Finding(part, check, SKIPPED, f"the GPU stopped working at: {self.broken_by}")
        if time.monotonic() - self.started > self.seconds:
            return Finding(part, check, SKIPPED, "no time was left")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return find()
        except ImportError as error:
            return Finding(part, check, SKIPPED, f"not installed: {error}"[:MOST_TOLD])
        except (MemoryError, torch.OutOfMemoryError):
            return Finding(part, check, SKIPPED, "out of memory")
        except (
            Exception
        ) as error:  # A kernel may fail in any way, and the others are still checked.
            text = f"{type(error).__name__}: {' '.join(str(error).split())}"[:MOST_TOLD]
            if "CUDA error" in text:
                # After an illegal access every later call of the process fails too.
                self.broken_by = f"{part}, {check}"
                return Finding(part, check, WRONG, text)
            return Finding(part, check, SKIPPED if lenient else WRONG, text)


@contextmanager
def own_flash_attention() -> Iterator[None]:
    """Let torch run its own FlashAttention, and afterwards the one that it ran before."""
    before = implementations.active()
    restore()
    try:
        yield
    finally:
        restore()
        if before is not None:
            implementations.require(before)


def restore() -> None:
    """Back to torch's own FlashAttention."""
    if implementations.active() is not None:
        torch.nn.attention.restore_flash_attention_impl()
