"""What Griffe has to know of our docstrings, as an extension of it.

An ``Example:`` is read as examples are, the compiled classes have their docstrings in the compiled
module, and public names in code lead to the reference.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from pathlib import Path
from typing import Any

import griffe

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from docs.site import names

CORE = "treepack._core"


class Docstrings(griffe.Extension):
    """Prepares each docstring before it is parsed."""

    def __init__(self) -> None:
        self.known = names.public_names()

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Find functions behind modules of the same name, such as ``collate`` in ``collate``."""
        for full in names.documented():
            parts = full.removeprefix("treepack.").split(".")
            item = pkg[parts]
            if item.is_class and item.canonical_path.startswith(f"{CORE}."):
                self._take_compiled(item, getattr(importlib.import_module(CORE), parts[-1]))
            if item.is_module and parts[-1] in item.members:
                parent, function = pkg[parts[:-1]] if parts[:-1] else pkg, item.members[parts[-1]]
                parent.members[parts[-1]] = griffe.Alias(parts[-1], function, parent=parent)
                self.on_object(obj=function)

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of what was read from a source file."""
        if obj.docstring:
            obj.docstring.value = self._rewritten(obj.docstring.value)

    def _take_compiled(self, declared: griffe.Object | griffe.Alias, compiled: Any) -> None:
        """Give what the stubs declare the docstrings that the compiled objects have."""
        target = declared.final_target if isinstance(declared, griffe.Alias) else declared
        if text := inspect.getdoc(compiled):
            target.docstring = griffe.Docstring(
                self._rewritten(text), parent=target, **self._read_as(target)
            )
        for name, member in target.members.items():
            if not name.startswith("_"):
                self._take_compiled(member, getattr(compiled, name))

    def _read_as(self, target: griffe.Object) -> dict[str, Any]:
        told = target.package.docstring
        return {"parser": told.parser, "parser_options": told.parser_options} if told else {}

    def _rewritten(self, text: str) -> str:
        text = re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE)
        lines = text.split("\n")
        return "\n".join(
            line if ">>>" in line else names.linked(line, self.known) for line in lines
        )
