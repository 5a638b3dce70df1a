"""Attention and its gradients on one row, beside the same in float64 and in a plain implementation.

The plain implementation is the softmax with the mask written out, in the dtype of the row. A
kernel is exact if its error is at most a few times as large.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from treepack._reference.attention import dense_attention
from treepack.attention.ops import tree_attention
from treepack.check.doctor.rows import Row
from treepack.options import AttentionBackend

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]

TIMES = 3.0
"""How many times the error of the plain implementation is accepted: kernels sum in another order,
and some round the share of each head of a group."""


class Problem(NamedTuple):
    """A row with its tensors and what they should give.

    Attributes:
        row: the mask and the window.
        tensors: q, k, v, and the gradient of the output.
        exact: the output, dq, dk, dv, computed in float64 and kept in float32.
        plain: mean square errors of the plain implementation in these four.
    """

    row: Row
    tensors: list[Tensor]
    exact: list[Tensor]
    plain: Tensor


class Errors(NamedTuple):
    """Root mean square errors: of the output and of all gradients, and whether they will do."""

    forward: float
    backward: float | None
    plain_forward: float
    plain_backward: float
    is_exact: bool

    @property
    def ratio(self) -> float:
        """The larger of both errors, in parts of that of the plain implementation."""
        pairs = [(self.forward, self.plain_forward), (self.backward or 0.0, self.plain_backward)]
        ratios = [ours / max(plain, 1e-30) for ours, plain in pairs]
        # A NaN is the largest.
        return max(ratios, key=lambda x: float("inf") if x != x else x)


def visible_pairs(row: Row) -> Tensor:
    """Which query sees which key: bool ``[T, T]``, the window included."""
    mask, window, _ = row
    visible = mask.to_dense()
    if window is not None:
        place = mask.positions()[0]
        later = np.arange(mask.total)[None, :] > np.arange(mask.total)[:, None]
        visible &= later | (place[:, None] - place[None, :] < window)
    return torch.from_numpy(visible)


def draw(
    rng: np.random.Generator, total: int, heads: tuple[int, int], size: int
) -> list[npt.NDArray[np.float64]]:
    """Normal q, k, v, and gradient of the output."""
    return [rng.standard_normal((total, h, size)) for h in (heads[0], heads[1], heads[1], heads[0])]


def with_grads(attend: Attend, q: Tensor, k: Tensor, v: Tensor, grad_out: Tensor) -> list[Tensor]:
    """The output, dq, dk and dv."""
    q, k, v = (x.detach().requires_grad_() for x in (q, k, v))
    out = attend(q, k, v)
    return [out.detach(), *torch.autograd.grad(out, (q, k, v), grad_out)]


def pose(
    row: Row,
    rng: np.random.Generator,
    device: torch.device,
    dtype: torch.dtype,
    heads: tuple[int, int] = (4, 2),
    size: int = 64,
) -> Problem:
    """Draw the tensors of a row, and compute what is exact and what is plain."""
    drawn = draw(rng, row.mask.total, heads, size)
    tensors = [torch.from_numpy(x).to(device, dtype) for x in drawn]
    visible = visible_pairs(row).to(device)
    dense = functools.partial(dense_attention, visible=visible)
    exact = with_grads(dense, *(x.double() for x in tensors))
    plain = squares(with_grads(dense, *tensors), exact)
    return Problem(row, tensors, [x.float() for x in exact], plain)


def squares(results: list[Tensor], exact: list[Tensor]) -> Tensor:
    """Mean square errors of each of the results: float64 ``[n]`` on the CPU."""
    pairs = zip(results, exact, strict=False)
    return torch.stack([(x.double() - y.double()).square().mean().cpu() for x, y in pairs])


def solve(
    problem: Problem,
    attend: Attend | None = None,
    backend: AttentionBackend | None = None,
    times: float = TIMES,
) -> Errors:
    """Run attention on a problem whose padding holds NaN, and judge what it gives.

    Args:
        problem: from `pose`.
        attend: computes the output from q, k, v; by default the tree attention of the backend.
        backend: its name.
        times: as in `judge`.
    """
    mask, window, _ = problem.row
    if attend is None:
        attend = functools.partial(tree_attention, mask=mask, window=window, backend=backend)
    return judge(problem, with_grads(attend, *poisoned(problem)), times)


def poisoned(problem: Problem) -> list[Tensor]:
    """The tensors with NaN on padding."""
    tensors = [x.clone() for x in problem.tensors]
    for x in tensors:
        x[problem.row.mask.used :] = torch.nan
    return tensors


def judge(problem: Problem, results: list[Tensor], times: float = TIMES) -> Errors:
    """Compare an output, or an output with its gradients, with what is exact.

    Args:
        problem: what was computed.
        results: the output, or the output, dq, dk and dv.
        times: how many times the error of the plain implementation is accepted.
    """
    used = problem.row.mask.used
    ours, plain = squares(results, problem.exact), problem.plain
    # Below rounding there is no sense in a comparison.
    noise = (torch.finfo(problem.tensors[0].dtype).eps / 8) ** 2
    near = bool((ours <= times**2 * plain[: len(ours)] + noise).all())
    is_clean = not any(bool(x[used:].any()) for x in results)
    return Errors(
        float(ours[0].sqrt()),
        float(ours[1:].mean().sqrt()) if len(ours) > 1 else None,
        float(plain[0].sqrt()),
        float(plain[1:].mean().sqrt()),
        near and is_clean,
    )
