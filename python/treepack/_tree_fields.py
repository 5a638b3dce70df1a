"""What a `MessageTree` is made of, checked: arrays of its tokens, media and costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from treepack.errors import CostError, TreeError

IGNORE = -100
"""The label of a token that is not trained on."""

ROW_NAMES = frozenset(
    (
        "attention_mask",
        "input_ids",
        "labels",
        "logits_to_keep",
        "loss_weights",
        "position_ids",
        "targets",
        "treepack",
        "use_cache",
    )
)
"""Names that media cannot have: the row gives these to the model, or withholds them."""

MOST_FLOAT32 = float(np.finfo(np.float32).max)
MOST_INT64 = (1 << 63) - 1

IntArray = npt.NDArray[np.int64]
Channel = float | npt.NDArray[np.float32]
Weight = float | npt.NDArray[np.float32]


def example_name(key: Any) -> str:
    """How errors name the example: ``example 'coco/17'``, or ``a tree`` when it has no key."""
    return "a tree" if key is None else f"example {key!r}"


def read_ids(name: str, value: npt.ArrayLike, shape: tuple[int | str], key: Any) -> IntArray:
    """Token ids or labels, int64 ``[n]``."""
    ids = read_ints(name, value, shape, key)
    if not len(ids):
        return ids
    ignored = IGNORE if name == "labels" else 0
    # If a number below 0 is not the ignored one, neither is the least or the greatest of them.
    for place in _extreme_negatives(ids):
        seen = ids.item(place)
        if seen < 0 and seen != ignored:
            raise TreeError(
                f"{example_name(key)}: {name}[{place}] is {seen}; a token id is 0 or more"
                + (f", and a label without loss is {IGNORE}" if ignored else "")
            )
    return ids


def _extreme_negatives(ids: IntArray) -> tuple[int, int]:
    """Places of the least and of the greatest number below 0, where there are any.

    The second search reads the numbers as unsigned: those below 0 then follow all others, in their
    own order. Both take 2 us; a comparison with a mask takes 11, and trees are made in the loop
    that feeds the model.
    """
    return int(ids.argmin()), int(ids.view(np.uint64).argmax())


def read_ints(name: str, value: npt.ArrayLike, shape: tuple[int | str, ...], key: Any) -> IntArray:
    """Integers of a shape."""
    array = _array(name, value, key)
    if array.size == 0 and not isinstance(value, np.ndarray):
        array = array.astype(np.int64)
    if array.dtype.kind not in "iu":
        raise TreeError(
            f"{example_name(key)}: {name} must be integers, got {array.dtype}; convert them first"
        )
    fits = array.ndim == len(shape) and all(
        isinstance(want, str) or want == got for want, got in zip(shape, array.shape, strict=True)
    )
    if not fits:
        raise TreeError(
            f"{example_name(key)}: {name} has shape {_shape(array.shape)}, expected {_shape(shape)}"
            + ("; one entry for each token" if name in ("labels", "root_positions") else "")
        )
    if array.dtype == np.uint64 and array.size and array.max() > MOST_INT64:
        raise TreeError(
            f"{example_name(key)}: {name} holds {array.max()}, more than int64 can hold; use int64"
        )
    return array.astype(np.int64)


def _array(name: str, value: npt.ArrayLike, key: Any) -> npt.NDArray[Any]:
    try:
        return np.asarray(value)
    except Exception as error:
        # Ragged lists, tensors with gradients or on a GPU: each has an error of its own.
        raise TreeError(
            f"{example_name(key)}: {name} cannot be read as an array: {error}"
        ) from error


def _shape(sizes: tuple[int | str, ...]) -> str:
    return f"[{', '.join(map(str, sizes))}]"


def read_weight(value: float | npt.ArrayLike, n: int, key: Any) -> float | npt.NDArray[np.float32]:
    """One number, or float32 ``[n]``."""
    if type(value) is float and 0 <= value <= MOST_FLOAT32:
        return value
    array = _array("weight", value, key)
    if array.dtype.kind not in "fiu" or array.shape not in ((), (n,)):
        raise TreeError(
            f"{example_name(key)}: weight must be one number or one for each of {n} tokens, "
            f"got {array.dtype} of shape {_shape(array.shape)}"
        )
    for place in (array.argmin(), array.argmax()) if array.size else ():
        # Both find a NaN where there is one.
        seen = array.item(place)
        if not 0 <= seen <= MOST_FLOAT32:
            where = f"weight[{place}]" if array.ndim else "weight"
            raise TreeError(
                f"{example_name(key)}: {where} is {seen}; it must be finite in float32 and not "
                "negative"
            )
    return float(array) if array.ndim == 0 else array.astype(np.float32)


def read_channels(
    value: Mapping[str, float | npt.ArrayLike], n: int, ends: bool, key: Any
) -> dict[str, Channel]:
    """By name one number or float32, one for each label."""
    channels = _dict("channels", value, key)
    for name, given in channels.items():
        array = _array(f"channel {name!r}", given, key)
        if array.dtype.kind not in "fiu" or not _fits(array.shape, n, ends):
            also = f", or {n + 1} with that of its end target" if ends else ""
            raise TreeError(
                f"{example_name(key)}: channel {name!r} must be one number or one for each of {n} "
                f"tokens{also}; got {array.dtype} of shape {_shape(array.shape)}"
            )
        for place in (array.argmin(), array.argmax()) if array.size else ():
            seen = array.item(place)
            if not -MOST_FLOAT32 <= seen <= MOST_FLOAT32:
                where = f"channel {name!r}[{place}]" if array.ndim else f"channel {name!r}"
                raise TreeError(f"{example_name(key)}: {where} is {seen}; it must be finite")
        channels[name] = float(array) if array.ndim == 0 else array.astype(np.float32)
    return channels


def _fits(shape: tuple[int, ...], n: int, ends: bool) -> bool:
    # The end target of no tokens has none to take its number from.
    return shape == () or shape == (n + ends,) or (shape == (n,) and n > 0)


def read_token(name: str, value: Any, key: Any) -> int:
    """A token id."""
    if not _is_integer(value) or not 0 <= value <= MOST_INT64:
        raise TreeError(f"{example_name(key)}: {name} must be a token id, got {value!r}")
    return int(value)


def read_role(value: Any, key: Any) -> str:
    """A text."""
    if not isinstance(value, str):
        raise TreeError(
            f"{example_name(key)}: role must be a text, such as 'chosen', got {value!r:.200}"
        )
    return value


def _is_integer(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def read_runs(value: npt.ArrayLike, n: int, key: Any) -> IntArray | None:
    """int64 ``[R, 3]``; ``None`` without any."""
    array = _array("image_runs", value, key)
    if not array.size:
        return None
    runs = read_ints("image_runs", array, ("n", 3), key)
    previous = 0
    for run, (start, end, _) in enumerate(runs.tolist()):
        if not previous <= start < end <= n:
            raise TreeError(
                f"{example_name(key)}: image run {run} is [{start}, {end}); it must hold tokens of "
                f"[{previous}, {n}), after the run before it and inside the node"
            )
        previous = end
    return runs


def read_media(value: Mapping[str, npt.NDArray[Any]], key: Any) -> dict[str, npt.NDArray[Any]]:
    """Arrays by name."""
    media = _dict("media", value, key)
    for name, array in media.items():
        if name in ROW_NAMES:
            raise TreeError(
                f"{example_name(key)}: media {name!r} would take the place of the row's own "
                f"{name}; give it another name"
            )
        if not getattr(array, "ndim", 0):
            raise TreeError(
                f"{example_name(key)}: media {name!r} must be an array of one axis or more, "
                f"got {type(array).__name__}"
            )
    return media


def read_costs(value: Mapping[str, int], key: Any) -> dict[str, int]:
    """Integers by name."""
    costs = _dict("costs", value, key)
    for name, cost in costs.items():
        if name == "tokens":
            raise CostError(
                f"{example_name(key)}: costs has 'tokens', which are counted; leave them out"
            )
        if not _is_integer(cost) or cost < 0:
            raise CostError(
                f"{example_name(key)}: cost {name!r} is {cost!r}; it must be an integer of 0 or "
                "more, so count in whole units"
            )
        costs[name] = int(cost)
    return costs


def _dict(name: str, value: Any, key: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise TreeError(
            f"{example_name(key)}: {name} must be a dict by name, got {type(value).__name__}"
        )
    return dict(value)
