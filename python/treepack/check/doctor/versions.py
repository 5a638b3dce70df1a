"""What is installed here: Python, torch, what attention and models may use, and the device."""

from __future__ import annotations

import platform
from importlib import metadata

import torch

from treepack.check.doctor.findings import TOLD
from treepack.check.doctor.session import Session

PACKAGES = {
    "transformers": ("transformers",),
    "flash-attn": ("flash-attn", "flash-attn-3", "flash_attn_3"),
    "flash-attn 4": ("flash-attn-4", "flash-attn-cute"),
    "triton": ("triton", "pytorch-triton", "triton-rocm"),
    "tree-recurrence": ("tree-recurrence",),
}
"""Names in the table, and those under which they are installed."""


def tell_versions(session: Session) -> None:
    """Add a line for each."""
    import treepack

    found = {
        "treepack": treepack.__version__,
        "Python": platform.python_version(),
        "torch": str(torch.__version__),
        **{name: version_of(*names) for name, names in PACKAGES.items()},
        "GPU": describe_gpu(session.device),
    }
    for name, version in found.items():
        session.tell("version", name, TOLD, version)


def version_of(*names: str) -> str:
    """The version of the first of these packages that is installed."""
    for name in names:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "not installed"


def describe_gpu(device: torch.device) -> str:
    """Its name, compute capability, memory, and the CUDA of torch."""
    if device.type != "cuda":
        return "no GPU was found"
    about = torch.cuda.get_device_properties(device)
    memory = about.total_memory / 2**30
    return f"{about.name}, {about.major}.{about.minor}, {memory:.0f} GiB, CUDA {torch.version.cuda}"
