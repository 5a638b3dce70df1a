"""Tree attention as a differentiable torch operator: run the calls of a plan, merge, sum."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from treepack._core import TreeMask
from treepack.attention import backends
from treepack.attention.arguments import (
    check_shapes,
    check_tensors,
    checked_scale,
    checked_softcap,
    checked_window,
)
from treepack.attention.merge import merge_on
from treepack.attention.plan import Tokens, TreePlan, read_calls
from treepack.errors import AttentionError
from treepack.options import AttentionBackend

if TYPE_CHECKING:
    from treepack.attention.backends import Backend
    from treepack.attention.plan import Call, PlannedRow


AUTOCAST = frozenset(filter(torch.amp.is_autocast_available, ("cpu", "cuda", "xpu", "mps")))
"""Kinds of device that have autocast; to ask is more than every compiler of torch can trace."""


def tree_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: TreeMask | TreePlan | PlannedRow,
    scale: float | None = None,
    *,
    window: int | None = None,
    softcap: float | None = None,
    backend: AttentionBackend | None = None,
) -> Tensor:
    """Compute ``softmax(scale * q k^T + mask) v`` over a packed row, forward and backward.

    A token attends to its own node and that node's ancestors, up to itself, and to the image tokens
    of its group. The mask is never expanded: it is a disjoint union of varlen FlashAttention calls.

    Args:
        q: ``[T, H, D]``.
        k: ``[T, Hk, D]``; ``Hk`` divides ``H`` (grouped-query attention).
        v: ``[T, Hk, D]``.
        mask: the mask of the row. A plan, or the ``batch["treepack"]`` that holds one, must be on
            the device of ``q``; a ``TreeMask`` is planned and moved there, which costs a copy.
        scale: of the scores; ``D ** -0.5`` by default.
        window: tokens of its path that a query sees, itself included (sliding-window layers); image
            tokens see ahead without limit. A plan knows its window already.
        softcap: scores ``s`` become ``softcap * tanh(s / softcap)``; ``"flex"`` alone has it.
        backend: ``"cpu"``, ``"cuda"`` (torch's FlashAttention), ``"fa3"`` or ``"fa4"`` (activated
            for all of torch, their packages must be installed), ``"reference"``; by default that
            of the device, on a GPU with the FlashAttention that torch runs. Or ``"flex"``, torch's
            FlexAttention, which wants to be compiled and rows of one length, and has no backward
            on a CPU.

    Returns:
        ``[T, H, D]`` in the dtype of ``q``, or of the autocast region. Padding is 0, and so are
        its gradients, whatever it holds. Nothing waits for the device.

    Raises:
        AttentionError: an argument that makes no sense, or tensors that do not fit each other,
            the mask, or the backend; it names the argument and what to change. Every backend
            rejects the same arguments, before any kernel runs.
        MemoryError: there is no room for the plan of the mask.

    Source:
        FlashAttention-2, arXiv 2307.08691; merging of parts as in ring attention, arXiv 2310.01889.

    Example:
        >>> import torch, treepack as tp
        >>> mask = tp.TreeMask.from_nodes([2, 1, 1], [-1, 0, 0])  # a root and two branches
        >>> zeros, v = torch.zeros(4, 1, 1), torch.tensor([1.0, 2.0, 6.0, 9.0]).view(4, 1, 1)
        >>> tree_attention(zeros, zeros, v, mask).flatten()
        tensor([1.0000, 1.5000, 3.0000, 4.0000])
    """
    check_tensors(q=q, k=k, v=v)
    q, k, v = cast_by_autocast(q, k, v)
    check_shapes(q, k, v)
    factor, reach = checked_scale(scale, q.shape[2]), checked_window(window)
    backend = backends.checked_name(backends.default(q.device) if backend is None else backend)
    cap = checked_softcap(softcap, backend)
    if backend == "flex":
        from treepack.attention.flex import attend

        return attend(q, k, v, mask, factor, reach, cap)
    plan = find_plan(mask, q.device, reach)
    if plan.device != q.device:
        raise AttentionError(
            f"the mask is on {plan.device}, q on {q.device}; "
            f"move the batch first: batch.to({str(q.device)!r})"
        )
    if backend in backends.WITHOUT_GAPS:
        plan = plan.without_gaps()
    out, _ = attn_fwd(q, k, v, plan.entries, plan.host, factor, backend)
    return out


def cast_by_autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Tensors in the dtype of the autocast region, where there is one."""
    # By hand: a registered autocast rule would know one dtype only, whatever the region asks for.
    kind = tensors[0].device.type
    if kind not in AUTOCAST or not torch.is_autocast_enabled(kind):
        return tensors
    dtype = torch.get_autocast_dtype(kind)
    return tuple(x if x.dtype == torch.float64 else x.to(dtype) for x in tensors)


def find_plan(mask: Any, device: torch.device, window: int | None = None) -> TreePlan:
    """The plan that a mask argument holds; a ``TreeMask`` is planned, once for each device."""
    if isinstance(mask, TreePlan):
        if window is not None and window < mask.longest and window != mask.window:
            raise AttentionError(
                f"a window of {window} tokens asked of a plan with window {mask.window}, and the "
                f"longest path has {mask.longest}; pass batch['treepack'], which has every plan"
            )
        return mask
    if isinstance(mask, TreeMask):
        return _plan_of(mask, device, window)
    plan = getattr(mask, "plan", None)
    if not isinstance(plan, TreePlan):
        raise AttentionError(
            f"mask must be a TreeMask, a TreePlan or batch['treepack'], got {type(mask).__name__}"
        )
    return plan if window is None else mask.plan_for(window)


@functools.lru_cache(maxsize=16)
def _plan_of(mask: TreeMask, device: torch.device, window: int | None) -> TreePlan:
    return TreePlan.from_mask(mask, window).to(device)


def run_forward(
    q: Tensor, k: Tensor, v: Tensor, entries: Tensor, host: Tensor, scale: float, backend: str
) -> tuple[Tensor, Tensor]:
    """Run a plan: ``out [T, H, D]`` and its log-sum-exp ``[H, T]``, natural, +inf on padding."""
    _check_length(q, host)
    kernels = backends.load(backend)
    kernels.check(q)
    with _undisturbed(q):
        q, k, v = map(_loadable, (q, k, v))
        return _forward(kernels, q, k, v, read_calls(entries, host), scale)


def _forward(
    kernels: Backend, q: Tensor, k: Tensor, v: Tensor, calls: list[Call], scale: float
) -> tuple[Tensor, Tensor]:
    total = q.shape[0]
    if not calls:
        return q.new_zeros(q.shape), q.new_full((q.shape[1], total), torch.inf, dtype=_lse_type(q))
    first, *later = calls
    out, lse = kernels.forward(first, q[first.q], k[first.k], v[first.k], scale)
    out = _pad_tokens(out, total)
    lse = pad(lse, (0, total - lse.shape[1]), value=torch.inf).contiguous()
    merge_ = merge_on(q.device.type)
    for call in later:
        part, part_lse = kernels.forward(call, q[call.q], k[call.k], v[call.k], scale)
        merge_(out, lse, call.q, part, part_lse)
    return out, lse


def run_backward(
    grad_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    entries: Tensor,
    host: Tensor,
    scale: float,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Sum the gradients of the calls, each from the merged output and log-sum-exp."""
    kernels = backends.load(backend)
    kernels.check(q)
    with _undisturbed(q):
        grad_out, q, k, v = map(_loadable, (grad_out.contiguous(), q, k, v))
        return _gradients(kernels, grad_out, q, k, v, out, lse, read_calls(entries, host), scale)


def _gradients(
    kernels: Backend,
    grad_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    calls: list[Call],
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    grads: list[Tensor] = []
    for call in calls:
        parts = kernels.backward(
            call,
            grad_out[call.q],
            q[call.q],
            k[call.k],
            v[call.k],
            out[call.q],
            lse[:, call.q].contiguous(),
            scale,
        )
        where = (call.q, call.k, call.k)
        if grads:
            for grad, tokens, part in zip(grads, where, parts, strict=True):
                _add_(grad, tokens, part)
        else:
            grads = [_spread(part, at, q.shape[0]) for part, at in zip(parts, where, strict=True)]
    dq, dk, dv = grads or (x.new_zeros(x.shape) for x in (q, k, v))
    return dq, dk, dv


@contextlib.contextmanager
def _undisturbed(x: Tensor) -> Iterator[None]:
    """Kernels run on the device of the tensors, current or not, and autocast changes none."""
    kind = x.device.type
    with contextlib.ExitStack() as stack:
        if kind == "cuda":
            stack.enter_context(torch.cuda.device(x.device))
        if kind in AUTOCAST and torch.is_autocast_enabled(kind):
            stack.enter_context(torch.autocast(kind, enabled=False))
        yield


def _check_length(q: Tensor, host: Tensor) -> None:
    total = int(host[1])
    if q.shape[0] != total:
        raise AttentionError(
            f"q has {q.shape[0]} tokens, the mask {total}; they are of different batches, or the "
            "row was cut or padded on its way: pass the batch whole, as model(**batch)"
        )


def _lse_type(q: Tensor) -> torch.dtype:
    return torch.float64 if q.dtype == torch.float64 else torch.float32


def _loadable(x: Tensor) -> Tensor:
    # Over a strided last axis kernels read the wrong numbers; those of a GPU load 16 bytes at once.
    fits = x.stride(-1) == 1
    if fits and x.is_cuda:
        offsets = x.data_ptr(), *(stride * x.element_size() for stride in x.stride()[:-1])
        fits = not any(offset % 16 for offset in offsets)
    return x if fits else x.contiguous()


def _pad_tokens(x: Tensor, total: int) -> Tensor:
    """Zeros up to ``total`` tokens, contiguous as the compiler was told."""
    missing = total - x.shape[0]
    return (pad(x, (0, 0, 0, 0, 0, missing)) if missing else x).contiguous()


def _spread(x: Tensor, tokens: Tokens, total: int) -> Tensor:
    """What the first call gives, at its place among ``total`` tokens."""
    if isinstance(tokens, slice):
        return _pad_tokens(x, total)
    # Many branches share the end of one root: their sum is rounded once, at the end.
    wide = torch.promote_types(x.dtype, torch.float32)
    spread = x.new_zeros(total, *x.shape[1:], dtype=wide)
    return spread.index_add_(0, tokens, x.to(wide)).to(x.dtype)


def _add_(x: Tensor, tokens: Tokens, part: Tensor) -> None:
    if isinstance(tokens, slice):
        x[tokens].add_(part)
    else:
        x.index_add_(0, tokens, part)


def _fake_forward(q: Tensor, *_rest: Any) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), q.new_empty((q.shape[1], q.shape[0]), dtype=_lse_type(q))


def _fake_backward(_: Tensor, q: Tensor, k: Tensor, v: Tensor, *_rest: Any) -> tuple[Tensor, ...]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, entries, host, ctx.scale, ctx.backend = inputs
    out, lse = output
    ctx.mark_non_differentiable(lse)
    ctx.save_for_backward(q, k, v, out, lse, entries, host)


def _backward(ctx: Any, grad_out: Tensor, _grad_lse: Tensor | None) -> tuple[Tensor | None, ...]:
    grads = attn_bwd(grad_out, *ctx.saved_tensors, ctx.scale, ctx.backend)
    return (*grads, None, None, None, None)


def _reject_second(_ctx: Any, *_grads: Tensor) -> None:
    raise AttentionError(
        "the gradient of attention has no gradient of its own; leave create_graph=True out, or use "
        "an attention that has one (eager) where second derivatives are needed"
    )


# The host table is read inside the operators, never in traced code: so a compiled graph holds no
# number of any one mask, and takes two tensors of any length instead of a list of calls.
_op = functools.partial(
    torch.library.custom_op, mutates_args=(), tags=(torch.Tag.cudagraph_unsafe,)
)
attn_fwd: Any = _op("treepack::attn_fwd", run_forward)
attn_bwd: Any = _op("treepack::attn_bwd", run_backward)
attn_fwd.register_fake(_fake_forward)
attn_bwd.register_fake(_fake_backward)
attn_fwd.register_autograd(_backward, setup_context=_setup_context)
attn_bwd.register_autograd(_reject_second)
