"""What a source of examples is: what `PackedDataset` asks of it, and whether it can go back."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from treepack.errors import DatasetError


def is_map_style(source: Any) -> bool:
    """Whether a source is read by index.

    Every torch ``IterableDataset`` inherits a ``__getitem__`` that only raises, so having the
    attribute is not enough: the type must define ``__len__`` and a ``__getitem__`` of its own.
    """
    kind = type(source)
    getitem = getattr(kind, "__getitem__", None)
    inherited = getattr(getitem, "__module__", "") == "torch.utils.data.dataset"
    return hasattr(kind, "__len__") and getitem is not None and not inherited


def load_example(source: Any, index: int | None) -> Any:
    """What a map-style source has at an index, by its ``load`` if it can ``measure`` without."""
    load = getattr(source, "load", None) if hasattr(source, "measure") else None
    return source[index] if load is None else load(index)


def check_source(source: Any) -> None:
    """Refuse what is no source, before a worker trips over it.

    Raises:
        DatasetError: neither indexable nor iterable, or ``measure`` without an index to give it.
    """
    if is_map_style(source):
        return
    if hasattr(source, "measure"):
        raise DatasetError(
            f"{type(source).__name__} has measure() but no __len__ and __getitem__; measuring "
            "before loading needs a source that is read by index"
        )
    if isinstance(source, Iterator):
        raise DatasetError(
            f"{type(source).__name__} is an iterator, which is used up after one pass and cannot "
            "be sent to workers; pass an object whose __iter__ starts anew"
        )
    if not hasattr(source, "__iter__"):
        raise DatasetError(
            f"{type(source).__name__} is no source: it needs __len__ and __getitem__, or __iter__"
        )


def find_start(source: Any) -> tuple[str | None, Any]:
    """Why the stream of a source cannot be resumed, or ``None``; an iterable's state at its start.

    The state is what sends the iterable back when it is read a second time.
    """
    reason = None if is_map_style(source) else _obstacle(source)
    if reason is not None or is_map_style(source):
        return reason, None
    kind = type(source).__name__
    try:
        start = copy.deepcopy(source.state_dict())
    except Exception as error:
        return f"state_dict() of {kind} failed before its first item: {error}", None
    if not _is_json(start):
        return (
            f"state_dict() of {kind} is not JSON-safe: {str(start)[:80]}; it may hold dicts with "
            "strings as keys, lists, strings, Python's own numbers, booleans and None",
            None,
        )
    return None, start


def _is_json(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_json(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return all(map(_is_json, value))
    return value is None or isinstance(value, (str, int, float))


def _obstacle(source: Any) -> str | None:
    kind = type(source).__name__
    if not (hasattr(source, "state_dict") and hasattr(source, "load_state_dict")):
        return (
            f"{kind} is an iterable without state_dict and load_state_dict, so its place cannot be "
            "saved; give it the pair, or __len__ and __getitem__"
        )
    if any("BufferShuffled" in type(stage).__name__ for stage in _stages(source)):
        return (
            f"{kind} shuffles in a buffer, whose examples are lost when it resumes; shuffle "
            "beforehand, or use a data set that is read by index and let treepack shuffle"
        )
    return None


def _stages(source: Any) -> Iterator[Any]:
    """The steps of a Hugging Face IterableDataset, from the last to the first."""
    stages = [getattr(source, "_ex_iterable", None)]
    while stages:
        stage = stages.pop()
        if stage is not None:
            yield stage
            stages += [getattr(stage, "ex_iterable", None), *getattr(stage, "ex_iterables", ())]
