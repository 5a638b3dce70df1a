"""Log-probabilities from hidden states, a slice of the vocabulary at a time."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from treepack.hf.head.wanted import ELEMENTS, Found, Op, Wanted, apply, wide

LEAST = 256
"""Fewest tokens of the vocabulary in a slice; with fewer, matrix products are slow."""


class Plan(NamedTuple):
    """How the logits of a slice are made, and what is wanted of them."""

    ops: tuple[Op, ...]
    dtype: torch.dtype
    wanted: Wanted
    step: int


def is_plain(head: Any) -> bool:
    """Whether a head is ``hidden @ weight.T + bias`` and nothing else."""
    return (
        isinstance(head, nn.Linear)
        and type(head).forward is nn.Linear.forward
        and "forward" not in vars(head)
        and type(head.weight.data) is Tensor
    )


def by_slices(
    head: nn.Linear,
    hidden: Tensor,
    targets: Tensor,
    ops: tuple[Op, ...],
    dtype: torch.dtype,
    wanted: Wanted,
) -> Found:
    """Compute what is wanted in forward, and the slices once more in backward.

    Each slice of the weight's gradient is written once, and no more than a slice of the logits
    exists at a time.

    Args:
        head: a plain one, see `is_plain`.
        hidden: float ``[N, H]``.
        targets: int64 ``[N]``; those outside of the vocabulary are no target.
        ops: what the model does to the logits of its head, element by element.
        dtype: in which the head computes: its own, or that of autocast.
        wanted: what to compute.

    Returns:
        With gradients to ``hidden`` and to the parameters of the head, once differentiable.

    Source:
        The online softmax of Milakov and Gimelshein, arXiv 1805.02867; not keeping logits as in
        Wijmans et al., arXiv 2411.09009.

    Example:
        >>> head = nn.Linear(4, 10)
        >>> hidden, targets = torch.randn(2, 4), torch.tensor([3, 7])
        >>> found = by_slices(head, hidden, targets, (), torch.float32, Wanted())
        >>> plain = head(hidden).log_softmax(-1)[[0, 1], [3, 7]]
        >>> torch.allclose(found.target, plain, atol=1e-5)
        True
    """
    plan = Plan(ops, dtype, wanted, max(LEAST, ELEMENTS // max(len(hidden), 1)))
    return Found(*_BySlices.apply(hidden, head.weight, head.bias, targets, plan))


class _BySlices(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, plan: Plan
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        ctx.set_materialize_grads(False)
        sums, x = _Sums(targets, wide(plan.dtype), plan.wanted), hidden.to(plan.dtype)
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(weight), plan.step):
                sums.add(apply(plan.ops, _logits(x, weight, bias, start, plan)), start)
        softmax, found = sums.end(len(weight))
        ctx.save_for_backward(hidden, weight, bias, targets, *softmax)
        ctx.plan = plan
        return found

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *given: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, *softmax = ctx.saved_tensors
        plan, x = ctx.plan, hidden.to(ctx.plan.dtype)
        sought = _Gradients(ctx.needs_input_grad, hidden, weight, bias, wide(plan.dtype))
        spread = _Spread(targets, _Softmax(*softmax), given, len(weight))
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(weight), plan.step):
                raw = _logits(x, weight, bias, start, plan).requires_grad_(bool(plan.ops))
                with torch.enable_grad():
                    y = apply(plan.ops, raw)
                logits = y.detach().to(wide(plan.dtype))
                gradient = spread.to(logits, start, may_overwrite=not plan.ops)
                if plan.ops:
                    (gradient,) = torch.autograd.grad(y, raw, gradient.to(y.dtype))
                sought.add(gradient.to(plan.dtype), x, start)
        return (*sought.end(hidden.dtype), None, None)


def _logits(x: Tensor, weight: Tensor, bias: Tensor | None, start: int, plan: Plan) -> Tensor:
    part = slice(start, start + plan.step)
    own = None if bias is None else bias[part].detach().to(plan.dtype)
    return linear(x, weight[part].detach().to(plan.dtype), own).to(wide(plan.dtype))


def _locate(targets: Tensor, start: int, width: int) -> tuple[Tensor, Tensor]:
    """Which targets are in a slice, and a column of each, which is one of the slice anyway."""
    index = targets - start
    return (index >= 0) & (index < width), index.clamp(0, width - 1)[:, None]


class _Softmax(NamedTuple):
    """Of each position, relative to its highest logit, so that large logits lose no digits."""

    high: Tensor
    mass: Tensor
    moment: Tensor


class _Sums:
    """Sums over the slices so far."""

    def __init__(self, targets: Tensor, dtype: torch.dtype, wanted: Wanted) -> None:
        self._targets, self._wanted, self._dtype = targets, wanted, dtype
        shape = {"dtype": dtype, "device": targets.device}
        self._mass, self._moment, self._sum, self._picked = torch.zeros(4, len(targets), **shape)
        # Not infinite: then a difference to it is a number.
        self._high = torch.full(targets.shape, torch.finfo(dtype).min, **shape)

    def add(self, y: Tensor, start: int) -> None:
        y = y.to(self._dtype)
        inside, index = _locate(self._targets, start, y.shape[1])
        self._picked += torch.where(inside, y.gather(1, index)[:, 0], 0)
        if self._wanted.mean:
            self._sum += y.sum(-1)
        high = torch.maximum(self._high, y.amax(-1))
        fell = self._high - high
        below = y.sub_(high[:, None])
        p = below.exp() if self._wanted.entropy else below.exp_()
        moment = (self._moment + fell * self._mass) * fell.exp()
        self._mass, self._high = self._mass * fell.exp() + p.sum(-1), high
        if self._wanted.entropy:
            self._moment = moment + p.mul_(below).sum(-1)

    def end(self, vocabulary: int) -> tuple[_Softmax, Found]:
        high, mass, moment = self._high, self._mass, self._moment / self._mass
        entropy = mass.log() - moment if self._wanted.entropy else None
        mean = self._sum / vocabulary - high - mass.log() if self._wanted.mean else None
        found = Found(self._picked - high - mass.log(), entropy, mean)
        return _Softmax(high, mass, moment), found


class _Spread:
    """The gradient to the logits of a slice, from those to the numbers of `Found`."""

    def __init__(
        self,
        targets: Tensor,
        softmax: _Softmax,
        given: tuple[Tensor | None, ...],
        vocabulary: int,
    ) -> None:
        self._targets, self._high, self._moment = targets, softmax.high, softmax.moment
        target, entropy, mean = given
        self._target = torch.zeros_like(softmax.high) if target is None else target
        self._each = None if mean is None else mean / vocabulary
        total = self._target if mean is None else self._target + mean
        self._all = total / softmax.mass
        self._entropy = None if entropy is None else entropy / softmax.mass

    def to(self, y: Tensor, start: int, *, may_overwrite: bool) -> Tensor:
        below = y.sub_(self._high[:, None]) if may_overwrite else y - self._high[:, None]
        if self._entropy is None:
            gradient = below.exp_().mul_(-self._all[:, None])
        else:
            gradient = below.exp()
            factor = below.sub_(self._moment[:, None]).mul_(-self._entropy[:, None])
            gradient.mul_(factor.sub_(self._all[:, None]))
        if self._each is not None:
            gradient.add_(self._each[:, None])
        inside, index = _locate(self._targets, start, y.shape[1])
        mine = gradient.gather(1, index) + (self._target * inside)[:, None]
        return gradient.scatter_(1, index, mine)


class _Gradients:
    """Gradients to hidden states, weight and bias, of those that need one."""

    def __init__(
        self,
        needed: tuple[bool, ...],
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        dtype: torch.dtype,
    ) -> None:
        self._source = weight
        self.hidden = torch.zeros_like(hidden, dtype=dtype) if needed[0] else None
        self.weight = torch.empty_like(weight) if needed[1] else None
        self.bias = torch.empty_like(bias) if bias is not None and needed[2] else None

    def add(self, gradient: Tensor, x: Tensor, start: int) -> None:
        part = slice(start, start + gradient.shape[1])
        if self.hidden is not None:
            self.hidden += gradient @ self._source[part].detach().to(gradient.dtype)
        if self.weight is not None:
            self.weight[part] = gradient.T @ x
        if self.bias is not None:
            self.bias[part] = gradient.sum(0)

    def end(self, dtype: torch.dtype) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        hidden = None if self.hidden is None else self.hidden.to(dtype)
        return hidden, self.weight, self.bias
