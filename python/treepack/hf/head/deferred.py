"""Logits that nobody has computed yet."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from treepack.errors import AttentionError
from treepack.hf.head.calls import call_within_hooks, is_sharded
from treepack.hf.head.rows import by_rows
from treepack.hf.head.slices import by_slices, is_plain
from treepack.hf.head.wanted import Found, Op, Wanted, apply

Result = TypeVar("Result")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


ELEMENTWISE = _words(
    "add sub mul multiply div divide true_divide neg tanh clamp __add__ __radd__ __sub__ __mul__ "
    "__rmul__ __div__ __truediv__ __neg__ to float double half bfloat16"
)
"""What models do to logits, each on its own; with numbers and dtypes alone it is put off."""

COPYING = _words("clone contiguous detach")

OF_OUTLINE = _words(
    "shape dtype ndim itemsize nbytes layout size dim ndimension numel nelement element_size "
    "stride is_contiguous is_floating_point is_complex __len__"
)
"""What shape and dtype answer."""

OF_HIDDEN = _words(
    "device requires_grad grad_fn is_leaf grad register_hook get_device is_cuda is_cpu is_meta "
    "is_xpu is_mps is_sparse is_quantized is_nested is_mkldnn is_inference _backward_hooks "
    "_base output_nr"
)
"""What the hidden states answer in place of the logits."""

IN_PLACE = _words(
    "__setitem__ __set__ __iadd__ __isub__ __imul__ __idiv__ __itruediv__ __ipow__ __imod__ "
    "__ifloordiv__ __iand__ __ior__ __ixor__ __ilshift__ __irshift__"
)


class Source(NamedTuple):
    """What logits will be made of, beside the hidden states.

    Attributes:
        head: the module that makes them.
        outline: of their shape and dtype, on the meta device.
        ops: what the model has done to them since.
        dtype: that of what the head itself gives.
        autocast: whether the head was called under autocast.
        versions: of the head's parameters, by which a change since is found.
    """

    head: Any
    outline: Tensor
    ops: tuple[Op, ...]
    dtype: torch.dtype
    autocast: bool
    versions: tuple[int | None, ...]


class DeferredLogits(Tensor):  # type: ignore[misc]
    """Logits ``[.., L, vocab]`` that are hidden states until somebody looks at them.

    Scaling and soft caps are put off, indices of positions apply to the hidden states, and
    `treepack.hf.token_logprobs` and `treepack.hf.weighted_loss` never make all logits. Everything
    else makes them, each time it is asked, so ``out.logits.argmax(-1)`` works. Gradients to the
    logits themselves are not kept.

    Raises:
        AttentionError: by whatever needs the head: its weights have changed since, so that these
            logits can no longer be computed, or are sharded at this moment.
    """

    _source: Source
    _computed: Tensor | None = None

    @classmethod
    def of(cls, hidden: Tensor, source: Source) -> DeferredLogits:
        """Put off the logits of hidden states.

        Args:
            hidden: float ``[.., L, H]``.
            source: of the logits.
        """
        deferred: DeferredLogits = hidden.as_subclass(cls)
        deferred._source = source
        return deferred

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs, me = kwargs or {}, args[0] if args else None
        name = _name(func)
        if isinstance(me, cls):
            answer = me._answer(func, name, args[1:], kwargs)
            if answer is not NotImplemented:
                return answer
        full = tree_map_only(DeferredLogits, DeferredLogits.full, (tuple(args), dict(kwargs)))
        result = func(*full[0], **full[1])
        if isinstance(me, cls) and _is_in_place(name):
            # From here on these logits exist.
            me._computed = full[0][0]
            return me if result is full[0][0] else result
        return result

    def full(self) -> Tensor:
        """All the logits; their gradients go to the hidden states and to the head."""
        if self._computed is not None:
            return self._computed
        ops = self._source.ops
        return self._call(lambda head, hidden: apply(ops, head.forward(hidden)))

    def find(self, targets: Tensor, wanted: Wanted, temperature: float = 1.0) -> Found:
        """Compute what is wanted of the distribution at each position.

        Args:
            targets: int64 ``[N]``, a target for each position; -100 for none.
            wanted: what to compute.
            temperature: by which the logits are divided.
        """
        source, vocabulary = self._source, self._source.outline.shape[-1]
        scaled: Op = (torch.div, (temperature,), {})
        ops = source.ops if temperature == 1.0 else (*source.ops, scaled)

        def job(head: Any, hidden: Tensor) -> Found:
            flat = hidden.reshape(-1, hidden.shape[-1])
            if is_plain(head):
                return by_slices(head, flat, targets, ops, source.dtype, wanted)
            return by_rows(head, flat, targets, ops, wanted, vocabulary)

        return self._call(job)

    @property
    def is_computed(self) -> bool:
        """Whether they exist after all, because somebody has changed them in place."""
        return self._computed is not None

    def _answer(
        self, func: Callable[..., Any], name: str, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        """What can be said without the logits."""
        if self.is_computed:
            return NotImplemented
        source, plain = self._source, _are_plain((*args, *kwargs.values()))
        with torch._C.DisableTorchFunctionSubclass():
            if name in OF_OUTLINE:
                return func(source.outline, *args, **kwargs)
            if name in OF_HIDDEN:
                return func(self, *args, **kwargs)
            hidden = self.as_subclass(Tensor)
            if name in COPYING:
                return DeferredLogits.of(func(hidden, *args, **kwargs), source)
            if name in ELEMENTWISE and plain:
                outline = func(source.outline, *args, **kwargs)
                ops = (*source.ops, (func, tuple(args), dict(kwargs)))
                return DeferredLogits.of(hidden, source._replace(outline=outline, ops=ops))
            if _is_of_positions(name, args, source.outline.ndim):
                part = func(hidden, *args)
                outline = source.outline.new_empty((*part.shape[:-1], source.outline.shape[-1]))
                return DeferredLogits.of(part, source._replace(outline=outline))
        return NotImplemented

    def _call(self, job: Callable[[Any, Tensor], Result]) -> Result:
        """What a job finds with head and hidden states, as the head was called before."""
        head = self._source.head
        if _have_changed(self._source.versions, versions(head)):
            raise AttentionError(
                f"the weights of the head ({type(head).__name__}) have changed since these logits "
                "were deferred (an optimiser step?), so they can no longer be computed; look at "
                'them before, or prepare the model with logits="full"'
            )
        with torch._C.DisableTorchFunctionSubclass():
            hidden, learns = self.as_subclass(Tensor), self.requires_grad
        with torch.set_grad_enabled(learns and torch.is_grad_enabled()), self._precision(hidden):
            return call_within_hooks(head, lambda: job(head, hidden), hidden)

    def _precision(self, hidden: Tensor) -> contextlib.AbstractContextManager[Any]:
        kind, source = hidden.device.type, self._source
        was_on = source.autocast and source.dtype in (torch.bfloat16, torch.float16)
        context: contextlib.AbstractContextManager[Any] = torch.autocast(
            kind, source.dtype if was_on else None, enabled=was_on
        )
        return context


def versions(head: Any) -> tuple[int | None, ...]:
    """How often each parameter of a head has been changed in place; unknown of a sharded one."""
    return tuple(
        None if is_sharded(p) or p.is_inference() else p._version for p in head.parameters()
    )


def _have_changed(before: Sequence[int | None], now: Sequence[int | None]) -> bool:
    if len(before) != len(now):
        return True
    pairs = zip(before, now, strict=True)
    return any(a != b for a, b in pairs if a is not None and b is not None)


def _name(func: Callable[..., Any]) -> str:
    """Of a function, a method, or the property that is read."""
    name: str = getattr(func, "__name__", "")
    own = getattr(func, "__self__", None) if name == "__get__" else func
    return getattr(own, "__name__", "")


def _is_in_place(name: str) -> bool:
    return name in IN_PLACE or (name.endswith("_") and not name.endswith("__"))


def _are_plain(values: Iterable[Any]) -> bool:
    return all(value is None or isinstance(value, (int, float, torch.dtype)) for value in values)


def _is_of_positions(name: str, args: Sequence[Any], ndim: int) -> bool:
    """Whether a function picks positions and leaves the axis of the vocabulary whole."""
    if name == "squeeze":
        return len(args) == 1 and isinstance(args[0], int) and args[0] % ndim != ndim - 1
    if name != "__getitem__":
        return False
    parts = args[0] if isinstance(args[0], tuple) else (args[0],)
    used = sum(map(_axes, _explicit(parts)))
    whole = isinstance(parts[-1], slice) and parts[-1] == slice(None)
    if any(part is Ellipsis for part in parts[:-1]):
        return whole
    return used < ndim or (used == ndim and whole)


def _explicit(parts: Sequence[Any]) -> Iterator[Any]:
    return (part for part in parts if part is not Ellipsis)


def _axes(part: Any) -> int:
    """How many axes an index takes; of what is not known, more than there are."""
    if isinstance(part, Tensor):
        is_mask = part.dtype in (torch.bool, torch.uint8)
        return part.ndim if is_mask else 1
    return 1 if isinstance(part, (int, slice)) and not isinstance(part, bool) else 1 << 10
