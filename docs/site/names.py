"""The public names, and how texts write them."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator, Mapping

from docs.site.api import TASKS

CODE = re.compile(r"(?<![`\[\w])`{1,2}([^`\n]+)`{1,2}(?![`\]])")
CALL = re.compile(r"(?:tp\.|treepack\.)?([A-Za-z_][\w.]*)(\(.*\))?")


def documented() -> list[str]:
    """The full names that the reference documents."""
    return [name for task in TASKS for name in task.names]


def public_names() -> dict[str, str]:
    """What a text may write, without ``tp.``, and the full name that it means."""
    found: dict[str, str] = {}
    for full in documented():
        folder = full.rpartition(".")[0] + "."
        for name in (full, *_members(full)):
            found[name.removeprefix("treepack.")] = name
            if full.count(".") > 2:
                # Deeper names are written without their folders.
                found[name.removeprefix(folder)] = name
    return found


def _members(full: str) -> Iterator[str]:
    module, _, name = full.rpartition(".")
    item = getattr(importlib.import_module(module), name)
    if inspect.isclass(item):
        yield from (f"{full}.{member}" for member in vars(item) if not member.startswith("_"))


def linked(line: str, known: Mapping[str, str]) -> str:
    """A line whose public names in code lead to the reference."""
    return CODE.sub(lambda found: reference(found[1], known) or found[0], line)


def reference(code: str, known: Mapping[str, str]) -> str | None:
    """A link to the reference for code that is a public name or a call of one.

    A single small word is no name without ``tp.``: words such as ``pack`` mean other things too.
    """
    found = CALL.fullmatch(code)
    if not found or found[1] not in known or re.fullmatch(r"[a-z]+", code):
        return None
    return f"[`{code}`][{known[found[1]]}]"
