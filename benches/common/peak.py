"""Peak memory of a loss over a large vocabulary, in a process of its own.

peak.py LOGITS WHAT DTYPE, such as ``deferred entropy float32``, prints MiB above the inputs, and
seconds of the processor.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import torch
import treepack as tp
from torch import nn
from treepack.hf.head import hooks

MIB = 1 << 10
LENGTH, VOCABULARY, HIDDEN = 4_096, 151_936, 256


class Model(nn.Module):
    """A head, and what `hooks.defer` looks for."""

    def __init__(self, vocabulary: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.head = nn.Linear(HIDDEN, vocabulary, bias=False, dtype=dtype)

    def get_output_embeddings(self) -> nn.Module:
        """The head."""
        return self.head

    def forward(self, hidden: torch.Tensor) -> dict[str, torch.Tensor]:
        """Logits ``[1, L, vocabulary]``."""
        return {"logits": self.head(hidden)}


def resident(name: str) -> float:
    """``VmRSS`` or, of the highest so far, ``VmHWM``, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / MIB


def peak(
    logits: str,
    what: str,
    dtype: torch.dtype = torch.float32,
    length: int = LENGTH,
    vocabulary: int = VOCABULARY,
) -> tuple[float, float]:
    """MiB of a loss and its backward above model and inputs, and seconds."""
    torch.manual_seed(0)
    model = Model(vocabulary, dtype)
    if logits == "deferred":
        hooks.defer(model)
    hidden = torch.randn(1, length, HIDDEN, dtype=dtype, requires_grad=True)
    targets = torch.randint(0, vocabulary, (1, length))
    weights = torch.rand(1, length)
    Path("/proc/self/clear_refs").write_text("5")
    before, began = resident("VmRSS"), time.process_time()
    found = model(hidden)["logits"]
    if what == "entropy":
        logprobs, entropy = tp.hf.token_logprobs(found, targets, entropy=True)
        loss = ((0.01 * entropy - logprobs) * weights).sum()
    else:
        loss = tp.hf.weighted_loss(found, targets=targets, loss_weights=weights)
    # With all logits, a trainer that keeps the output needs those once more.
    del found
    loss.backward()
    return resident("VmHWM") - before, time.process_time() - began


def measured(*case: str) -> tuple[float, float]:
    """What `peak` finds in a new process, of logits, what is computed, and the dtype."""
    command = [sys.executable, __file__, *case]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    mebibytes, seconds = map(float, done.stdout.split())
    return mebibytes, seconds


if __name__ == "__main__":
    torch.set_num_threads(1)
    logits, what, dtype = *sys.argv[1:3], getattr(torch, sys.argv[3])
    # Whatever is imported or allocated once.
    peak(logits, what, dtype, length=64, vocabulary=1_000)
    print(*peak(logits, what, dtype))
