"""The GPU of the machine, if it has one."""

from __future__ import annotations

import pytest
import torch

HAS_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if HAS_GPU else "cpu")
on_a_gpu = pytest.mark.skipif(not HAS_GPU, reason="asks about a GPU, and there is none")
