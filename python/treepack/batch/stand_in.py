"""What stands in a packed batch where code that knows nothing of packing would look.

A model that was never prepared, or was switched back or loaded anew since, would attend over a
packed row with a plain causal mask, and nobody would notice: the loss falls all the same. But
every builder of a stock mask reads ``attention_mask``, and every stock loss reads ``labels``. So
these two hold a `StandIn`, and reading it is an error. A prepared model reads neither.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, NoReturn

from treepack.errors import BatchError, NotPreparedError


class StandIn:
    """Rejects whatever is done with it; ``None`` would be taken for "nothing to see here".

    Args:
        name: the argument of the model in whose place it stands.

    Example:
        >>> StandIn("labels") + 1  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        treepack.errors.NotPreparedError: a packed batch reached code that reads 'labels' ...
    """

    __slots__ = ("_name",)

    ndim = 4
    """Prepared models ask for it too: recurrent layers take no mask of 4 axes, GPT-2 reshapes any
    other. Where such a mask is used, that is an error as ever."""

    def __init__(self, name: str) -> None:
        object.__setattr__(self, "_name", name)

    def __getattr__(self, _: str) -> NoReturn:
        _fail(self._name)

    @classmethod
    def __torch_function__(
        cls, _: Any, __: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> NoReturn:
        _fail(next(_names([*args, *(kwargs or {}).values()]), "labels"))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StandIn) and other._name == self._name

    def __ne__(self, other: object) -> bool:
        if isinstance(other, StandIn):
            return not self == other
        raise BatchError(_message(self._name))

    def __getitem__(self, _: object) -> NoReturn:
        # Trainers count labels, and take an AttributeError for "cannot be counted".
        raise (BatchError if self._name == "labels" else NotPreparedError)(_message(self._name))

    def ne(self, _: object) -> NoReturn:
        """Rejected as `__getitem__` is, for the same reason.

        Raises:
            BatchError: always.
        """
        raise BatchError(_message(self._name))

    def to(self, *_: object, **__: object) -> StandIn:
        """Itself: ``{name: value.to(device) for ...}`` moves a batch and reads nothing."""
        return self

    cpu: ClassVar[Callable[..., StandIn]] = to
    cuda: ClassVar[Callable[..., StandIn]] = to
    pin_memory: ClassVar[Callable[..., StandIn]] = to

    def __hash__(self) -> int:
        return hash(self._name)

    def __reduce__(self) -> tuple[type[StandIn], tuple[str]]:
        return StandIn, (self._name,)

    def __copy__(self) -> StandIn:
        return self

    def __deepcopy__(self, _: Any) -> StandIn:
        return self

    def __repr__(self) -> str:
        return f"StandIn({self._name!r})"


def _names(given: Any) -> Iterator[str]:
    """Names of the stand-ins among arguments, also inside of lists and tuples: ``torch.cat``."""
    if isinstance(given, StandIn):
        yield given._name
    elif isinstance(given, (list, tuple)):
        for value in given:
            yield from _names(value)


def _reject(self: StandIn, *_: Any) -> NoReturn:
    _fail(self._name)


def _fail(name: str) -> NoReturn:
    raise NotPreparedError(_message(name))


def _message(name: str) -> str:
    return (
        f"a packed batch reached code that reads {name!r} as ever, so it would not see the mask or "
        "the loss weights of the row; call tp.hf.prepare(model), again if its attention was "
        "switched or it was saved and loaded; pass plain inputs inside of tp.hf.restore(model); "
        "train with tp.hf.PackedTrainer, not with a Trainer that counts labels"
    )


_ARITHMETIC = (
    "add",
    "sub",
    "mul",
    "matmul",
    "truediv",
    "floordiv",
    "mod",
    "pow",
    "and",
    "or",
    "xor",
)

# Python looks these up on the class, past __getattr__. Not so "iter": walkers of batches, such as
# the one by which Lightning finds a batch size, would take a stand-in for a list and read it.
# Iterating ends in __getitem__ all the same.
for _operator in (
    *("setitem", "len", "contains", "bool", "int", "float", "index", "array"),
    *("lt", "le", "gt", "ge", "neg", "invert", "abs"),
    *_ARITHMETIC,
    *(f"r{name}" for name in _ARITHMETIC),
):
    setattr(StandIn, f"__{_operator}__", _reject)
