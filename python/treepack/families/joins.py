"""How the arrays of several examples become those of a row."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from treepack.errors import FamilyError
from treepack.sources.media import cut

Array = npt.NDArray[Any]


class Join(NamedTuple):
    """How a model wants one of its inputs joined. All other axes are padded to the longest.

    Args:
        axis: along which the parts are concatenated.
        fill: what pads the other axes.
        pads: whether the model takes padded parts; if not, parts that differ are rejected.
        counts: for indices into another input: its name, and how many of its axes, multiplied, an
            example has entries to point at. Indices of 0 or more go on counting from example to
            example; those below 0 point nowhere and stay.

    Example:
        >>> a, b = np.zeros((1, 2, 3)), np.ones((1, 1, 4))
        >>> join({"x": Join(axis=1)}, [{"x": a}, {"x": b}])["x"].tolist()
        [[[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]]]
        >>> places = [{"x": np.zeros(3), "at": np.array([0, -1, 2])}] * 2
        >>> join({"at": Join(counts=("x", 1))}, places)["at"].tolist()
        [0, -1, 2, 3, -1, 5]
    """

    axis: int = 0
    fill: float = 0
    counts: tuple[str, int] | None = None
    pads: bool = True


def join(rules: Mapping[str, Join], parts: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """One set of model inputs from those of several examples, in order.

    Args:
        rules: by the names of the inputs; one that is not named is concatenated on its first axis.
        parts: inputs by name; each may lack some.
    """
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: _join_one(name, rules.get(name, Join()), parts) for name in names}


def _join_one(name: str, rule: Join, parts: Sequence[Mapping[str, Array]]) -> Array:
    arrays, passed = [], 0
    for part in parts:
        if name not in part:
            continue
        array = part[name]
        if rule.counts is not None:
            other, axes = rule.counts
            array = np.where(array >= 0, array + passed, array)
            passed += math.prod(part[other].shape[:axes])
        arrays.append(array)
    axis = rule.axis
    longest = np.max([array.shape for array in arrays], axis=0)
    padded = [_padded(array, longest, axis, rule.fill) for array in arrays]
    if not rule.pads and any(mine is not array for mine, array in zip(padded, arrays, strict=True)):
        shapes = sorted({array.shape for array in arrays})
        raise FamilyError(
            f"{name} of the examples of a row have shapes {cut(str(shapes))}, and the model takes "
            "no padding of them; prepare media alike (num_frames of a video, its size)"
        )
    return np.concatenate(padded, axis)


def _padded(array: Array, shape: npt.NDArray[np.int64], axis: int, fill: float) -> Array:
    missing = [int(n) - have for n, have in zip(shape, array.shape, strict=True)]
    missing[axis] = 0
    if not any(missing):
        return array
    return np.pad(array, [(0, n) for n in missing], constant_values=fill)
