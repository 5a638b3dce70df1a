"""Put partial attention results together, as if one softmax had run over all their keys.

On a GPU one fused kernel does it (`treepack.attention.merge_kernel`); `merge_` is the same in
torch.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import shutil
from collections.abc import Callable
from typing import Any

import torch

from treepack.attention.plan import Tokens


def merge_(
    out: torch.Tensor, lse: torch.Tensor, tokens: Tokens, part: torch.Tensor, part_lse: torch.Tensor
) -> None:
    """Merge attention over further keys into that of some tokens, in place.

    Both results are weighted by their share of the softmax denominator, in the precision of the
    log-sum-exp.

    Args:
        out: ``[T, H, D]`` attention so far.
        lse: ``[H, T]`` its natural log-sum-exp; +inf where a token has seen no key.
        tokens: a slice or int ``[n]``, the tokens that the part is about; none twice.
        part: ``[n, H, D]`` attention over the further keys; 0 where a token sees none of them.
        part_lse: ``[H, n]`` its log-sum-exp; infinite, of either sign, where a token sees none.

    Source:
        Online normalizer calculation for softmax, arXiv 1805.02867, and ring attention,
        arXiv 2310.01889.

    Example:
        >>> import torch
        >>> out, lse = torch.zeros(1, 1, 2), torch.zeros(1, 1)
        >>> merge_(out, lse, slice(0, 1), torch.ones(1, 1, 2), torch.zeros(1, 1))
        >>> out.tolist(), round(lse.item(), 4)
        ([[[0.5, 0.5]]], 0.6931)
    """
    seen, more = _or_nothing(lse[:, tokens]), _or_nothing(part_lse)
    merged = torch.logaddexp(seen, more)
    nothing = merged.isneginf()
    base = merged.masked_fill(nothing, 0.0)
    # A NaN of the inputs stays a NaN: outputs are never masked, and tokens without keys hold zeros.
    both = (part * _share(more, base)).addcmul_(out[tokens], _share(seen, base))
    out[tokens] = both.to(out.dtype)
    lse[:, tokens] = merged.masked_fill(nothing, torch.inf)


@functools.cache
def merge_on(device_type: str) -> Callable[..., Any]:
    """The fastest merge on a kind of device."""
    if device_type == "cuda" and importlib.util.find_spec("triton") and _has_compiler():
        kernel = importlib.import_module("treepack.attention.merge_kernel")
        fused: Callable[..., Any] = kernel.merge_
        return fused
    return merge_


def _has_compiler() -> bool:
    # Triton builds what launches its kernels with the C compiler of the machine, one of these.
    named = os.environ.get("CC", "").split()
    return any(map(shutil.which, named[:1] or ("gcc", "clang")))


def _or_nothing(lse: torch.Tensor) -> torch.Tensor:
    """The log-sum-exp with every way of writing "no keys" as -inf."""
    return lse.masked_fill(lse.isinf(), -torch.inf)


def _share(lse: torch.Tensor, merged: torch.Tensor) -> torch.Tensor:
    return (lse - merged).exp().transpose(0, 1).unsqueeze(-1)
