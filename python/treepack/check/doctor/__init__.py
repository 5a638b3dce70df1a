"""What works on this machine: backends against the definition, the compiler, speed.

``treepack doctor`` prints it; ``tests/gpu`` runs the same checks.
"""

from __future__ import annotations

import functools

import torch

from treepack.check.doctor.findings import Diagnosis
from treepack.check.doctor.kernels import check_backends, forgotten_problems
from treepack.check.doctor.model import NAME, check_model
from treepack.check.doctor.parts import check_parts
from treepack.check.doctor.session import Session, own_flash_attention
from treepack.check.doctor.speed import check_speed
from treepack.check.doctor.versions import tell_versions

__all__ = ["Diagnosis", "doctor"]

SECONDS = 75.0


def doctor(*, seconds: float = SECONDS, speed: bool = True) -> Diagnosis:
    """Check what training needs on this machine, on its GPU if there is one.

    Every attention backend that can run here computes each kind of call, forward and backward, and
    is compared with float64 and with a plain implementation in the same dtype: it is wrong if its
    error is more than three times that. Then the fused merge, FlexAttention, page-locked batches,
    the speed of tree attention beside that of a dense mask and of no tree, and a compiled model.
    What ``torch.compile`` has made in this process before is compiled anew afterwards.

    Args:
        seconds: after which no further check begins; those left are ``"skipped"``.
        speed: whether speed is measured.

    Returns:
        What was found: ``str()`` of it is a table of 80 columns, ``.ok`` says whether nothing is
        wrong, ``.wrong`` names what is, ``.to_dict()`` has all figures.

    Example:
        >>> import treepack as tp
        >>> found = tp.testing.doctor(seconds=0, speed=False)  # no time: all is skipped
        >>> found.ok, found.wrong
        (True, [])
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    session = Session(device, seconds)
    with own_flash_attention(), forgotten_problems():
        tell_versions(session)
        check_backends(session)
        check_parts(session)
        if speed:
            check_speed(session)
        session.run("model", NAME, functools.partial(check_model, device))
    return session.diagnosis()
