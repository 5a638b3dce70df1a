"""Formats of data records: one module each, found by its name or by the fields of a record.

A format says ``FIELDS``, the fields that it needs, any one of each group, and has a function
``conversations(record, name)`` that finds the conversations of a record. What turns and media may
be is the same in all of them. A function ``uses(record)``, if there is one, names other formats
whose fields are a part of this one. A new format is one new file.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

from treepack.errors import DataError, DatasetError
from treepack.options import FormatName
from treepack.sources.records import unsupported
from treepack.sources.records.base import QUESTIONS, Said, is_given, shown


class Format(Protocol):
    """What a module of this package has."""

    FIELDS: tuple[tuple[str, ...], ...]

    def conversations(self, record: Mapping[str, Any], name: str) -> Sequence[Said]:
        """The conversations of a record.

        Args:
            record: has a field of each group of ``FIELDS``.
            name: the record, for errors.

        Raises:
            DataError: a field that does not hold what it should.
        """


@functools.cache
def formats() -> dict[str, Format]:
    """Every format by name.

    Example:
        >>> list(formats())[:3]
        ['caption', 'conversations', 'instruction']
    """
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return {name: cast("Format", importlib.import_module(f"{__name__}.{name}")) for name in names}


def check_format(name: str) -> None:
    """Reject a name that no format has.

    Raises:
        DatasetError: there is no such format.
    """
    if name not in formats():
        raise DatasetError(
            f"no format is called {name!r:.200}; there are {list(formats())}, and format= also "
            "takes a function from a record to a record in one of them"
        )


def find(record: Mapping[str, Any], name: str, wanted: FormatName | None = None) -> Format:
    """The format of a record.

    Args:
        record: by the fields that it has.
        name: the record, for errors.
        wanted: name of the format, where fields of several are there.

    Raises:
        DataError: it is in none, in several, or not in the one that is wanted.
    """
    known = formats()
    if wanted is not None:
        if not _fits(known[wanted].FIELDS, record):
            raise DataError(
                f"{name}: format {wanted!r} needs {_fields(known[wanted])}, the record has "
                f"{shown(sorted(map(str, record)))}"
            )
        return known[wanted]
    found = [fmt for fmt, groups in _candidates(tuple(record)) if _fits(groups, record)]
    if len(found) > 1:
        used = {other for fmt in found for other in getattr(known[fmt], "uses", _nothing)(record)}
        found = [fmt for fmt in found if fmt not in used]
    if len(found) == 1:
        return known[found[0]]
    if found:
        raise DataError(
            f"{name}: its fields are those of {' and of '.join(map(repr, found))}; say which is "
            f"meant with format={found[0]!r}, or leave the others out"
        )
    for field, reason in unsupported.SHAPES.items():
        if is_given(record.get(field)):
            raise DataError(f"{name}: a record of {field!r} is not read; {reason}")
    readable = "; ".join(f"{fmt}: {_fields(module)}" for fmt, module in known.items())
    values = {field: record.get(field) for field in _trigger_fields()}
    empty = [repr(field) for field, v in values.items() if isinstance(v, (list, str)) and not v]
    raise DataError(
        f"{name}: no conversation is found among its fields {shown(sorted(map(str, record)))}"
        f"{': ' + ', '.join(empty) + ' is empty' if empty else ''}; write one of: {readable}"
    )


@functools.lru_cache(1024)
def _candidates(fields: tuple[Any, ...]) -> list[tuple[str, list[list[str]]]]:
    """Formats whose fields are there, whatever they hold; records of a file mostly share them."""
    found = []
    for name, module in formats().items():
        groups = [[field for field in group if field in fields] for group in module.FIELDS]
        if all(groups):
            found.append((name, groups))
    return found


@functools.cache
def _trigger_fields() -> list[str]:
    return sorted({field for module in formats().values() for g in module.FIELDS for field in g})


def _fits(groups: Sequence[Sequence[str]], record: Mapping[str, Any]) -> bool:
    # Lists and not generators, which take three times as long here.
    return not [group for group in groups if not [f for f in group if _holds(record, f)]]


def _nothing(_: Mapping[str, Any]) -> set[str]:
    return set()


def _holds(record: Mapping[str, Any], field: str) -> bool:
    value = record.get(field)
    return is_given(value) or (field in QUESTIONS and isinstance(value, str))


def _fields(module: Format) -> str:
    return " + ".join(" or ".join(map(repr, group)) for group in module.FIELDS)
