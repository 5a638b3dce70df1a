"""What every format of records is read into."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping, Sequence
from numbers import Real
from types import MappingProxyType
from typing import Any, NamedTuple, get_args

import numpy as np

from treepack.errors import DataError
from treepack.options import MediumKind

KINDS: tuple[MediumKind, ...] = get_args(MediumKind)


class Medium(NamedTuple):
    """An image or a video of an example.

    Attributes:
        kind: ``"image"`` or ``"video"``.
        value: what it is, in one of these forms:

            - ``str``: path of the file;
            - ``bytes``: contents of the file, encoded (JPEG, PNG, MP4, ...);
            - a PIL image, or a uint8 array ``[H, W]`` or ``[H, W, C]``, of an image;
            - a uint8 array ``[T, H, W, 3]`` of a video;
            - ``list[str]``: paths of the frames of a video, in order; at least one.
        options: what the data says about it by name, numbers of `OPTIONS`; ``None`` if nothing.
    """

    kind: MediumKind
    value: Any
    options: Mapping[str, float] | None = None


OPTIONS = {
    "min_pixels": "fewest pixels of an image, or of a frame",
    "max_pixels": "most pixels of an image, or of a frame",
    "max_crops": "most crops of an image",
    "start": "where a clip starts in its video, in seconds",
    "end": "where a clip ends in its video, in seconds",
    "fps": "how many frames a second of a video are seen, or how many a list of frames has",
    "num_frames": "how many frames of a video are seen",
}
"""Names of `Medium.options`, the same whatever a format calls them; a family may know fewer."""

IMAGE_OPTIONS = ("min_pixels", "max_pixels", "max_crops")
VIDEO_OPTIONS = ("min_pixels", "max_pixels", "start", "end", "fps", "num_frames")


class Turn(NamedTuple):
    """What the user says and what the model should answer.

    Attributes:
        question: text.
        answer: text.
        weight: loss weight of the answer and of the end of turn after it; 0 is not trained on.
    """

    question: str
    answer: str
    weight: float = 1.0


class Record(NamedTuple):
    """A record that has been read and found sound, or a part of it that is a tree of its own.

    Attributes:
        key: what the example is called, or ``None``.
        media: in the order in which the model sees them.
        texts: what stands before each of the media, in every conversation.
        branches: the conversations; the first question is what stands behind the media.
        roles: what each conversation is to a loss, such as ``"chosen"``, or ``None``.
        system: instruction that precedes everything.
        channels: numbers of each conversation, by name.
    """

    key: str | None
    media: tuple[Medium, ...]
    texts: tuple[str, ...]
    branches: tuple[tuple[Turn, ...], ...]
    roles: tuple[str | None, ...]
    system: str
    channels: tuple[Mapping[str, float], ...]


class Said(NamedTuple):
    """A conversation as its record says it; what a format of records finds.

    Attributes:
        turns: messages in order, each ``{"role": ..., "content": ...}`` or ``{"from": ...,
            "value": ...}``.
        role: as in `Record`.
        weight: loss weight of all its answers.
        is_tagged: its first question says ``<image>`` or ``<video>`` where its media stand; where
            that need not be and no tag is there, they stand before it.
    """

    turns: Sequence[Any]
    role: str | None = None
    weight: float = 1.0
    is_tagged: bool = True
    channels: Mapping[str, float] = MappingProxyType({})


QUESTIONS = frozenset({"prompt", "question", "query", "instruction"})
"""Fields that may hold an empty text: what counts is the answer to it."""

MOST_SHOWN = 200
_MAYBE_EMPTY = (str, bytes, list, tuple, Mapping)
_NAS = frozenset(("NAType", "NaTType"))
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = MOST_SHOWN
_SHORT.maxdict = _SHORT.maxlist = _SHORT.maxtuple = 8
_SHORT.maxlevel = 3


def shown(value: Any) -> str:
    """A value of the data as errors show it: at most 200 characters, however large it is."""
    if type(value) is str and len(value) < MOST_SHOWN // 2:
        return repr(value)[:MOST_SHOWN]
    return _SHORT.repr(value)[:MOST_SHOWN]


def is_given(value: Any) -> bool:
    """Whether a field holds anything: a null, an empty text, list or object is an absence.

    So are NaN and the other nulls of pandas, which fills tables with them.
    """
    if value is None or type(value) is str:
        return bool(value)
    if isinstance(value, (float, np.floating)):
        return value == value
    return not (isinstance(value, _MAYBE_EMPTY) and not value) and type(value).__name__ not in _NAS


def number_of(value: Any) -> float | None:
    """A number of the data that is 0 or more and finite; ``None`` if it is none.

    Example:
        >>> number_of(True), number_of(10**400), number_of("3")
        (1.0, None, None)
    """
    number = finite_of(value)
    return None if number is None or number < 0 else number


def finite_of(value: Any) -> float | None:
    """A finite number of the data, of any sign; ``None`` if it is none.

    Example:
        >>> finite_of(-0.5), finite_of(float("nan"))
        (-0.5, None)
    """
    if isinstance(value, np.bool_):
        return float(value)
    if not isinstance(value, Real):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def plain_lists(value: Any) -> Any:
    """The same with arrays of texts and of objects as lists; pandas and numpy write such arrays.

    Example:
        >>> plain_lists({"images": np.array(["a.jpg"]), "pixels": np.zeros(1, np.uint8)})
        {'images': ['a.jpg'], 'pixels': array([0], dtype=uint8)}
    """
    if isinstance(value, np.ndarray) and value.dtype.kind in "OSU":
        value = value.tolist()
    if isinstance(value, list):
        return [plain_lists(item) for item in value]
    if type(value) is dict:
        return {name: plain_lists(item) for name, item in value.items()}
    return value


def fields_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The fields of a JSON object, for ``object_pairs_hook``; JSON itself would keep the last.

    Raises:
        ValueError: one of them stands there twice.
    """
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [field for field, _ in pairs]
        twice = next(field for field in names if names.count(field) > 1)
        raise ValueError(f"{shown(twice)} stands twice in one object")
    return fields


def listed(value: Any) -> list[Any]:
    """A field that holds one thing or a list of them, without what is not there."""
    if not is_given(value):
        return []
    values = value if isinstance(value, (list, tuple)) else [value]
    return [value for value in values if is_given(value)]


def text_of(record: Mapping[str, Any], field: str, name: str) -> str:
    """The text of a field.

    Raises:
        DataError: it holds something else.
    """
    value = record.get(field)
    if not isinstance(value, str):
        raise DataError(f"{name}: {field!r} must be a text, got {shown(value)}")
    return value


def exchange(question: Any, answer: Any) -> list[dict[str, Any]]:
    """One question and its answer as turns."""
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
