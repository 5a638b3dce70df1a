"""The machine that a figure was measured on."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def describe() -> str:
    """One line: processor, cores, Python, and torch with its device when it is installed."""
    parts = [_processor(), f"{os.cpu_count()} cores", f"Python {platform.python_version()}"]
    try:
        import torch
    except ImportError:
        return ", ".join(parts)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return ", ".join([*parts, f"torch {torch.__version__} on {device}"])


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
