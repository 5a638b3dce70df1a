"""Models of transformers that compute in float64 throughout, so that every error shows."""

from __future__ import annotations

import contextlib
import sys

import pytest
import torch


class Float64Torch:
    """The module ``torch`` for a model that asks it for float32."""

    float = float32 = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


@contextlib.contextmanager
def unrounded():
    """Let float64 models of transformers keep norms, rotary positions and recurrences in float64.

    They round these to float32 by themselves, and where a sum in another order falls on the other
    side of a rounding, results that ought to agree differ by 1e-7; which sums do depends on the
    processor. Models that are imported later go on rounding.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name, module in list(sys.modules.items()):
            is_model = name.startswith("transformers.") and "modeling" in name
            if is_model and vars(module).get("torch") is torch:
                patch.setitem(vars(module), "torch", Float64Torch())
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        yield
