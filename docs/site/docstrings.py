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

CODE = re.compile(r"(?<![`\[\w])`{1,2}([^`\n]+)`{1,2}(?![`\]])")
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
            if item.is_module:
                parent, function = pkg[parts[:-1]] if parts[:-1] else pkg, item.members[parts[-1]]
                parent.members[parts[-1]] = griffe.Alias(parts[-1], function, parent=parent)
                self.on_object(obj=function)

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Take the docstring of the compiled object, and rewrite it."""
        if obj.path.startswith(f"{CORE}."):
            self._take_compiled(obj)
        if obj.docstring:
            obj.docstring.value = self._rewritten(obj.docstring.value)

    def _take_compiled(self, obj: griffe.Object) -> None:
        item: Any = importlib.import_module(CORE)
        for name in obj.path.removeprefix(f"{CORE}.").split("."):
            item = getattr(item, name, None)
        text = inspect.getdoc(item)
        if text and not isinstance(item, (int, tuple, str)):
            obj.docstring = griffe.Docstring(text, parent=obj)

    def _rewritten(self, text: str) -> str:
        text = re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE)
        lines = text.split("\n")
        return "\n".join(line if ">>>" in line else self._linked(line) for line in lines)

    def _linked(self, line: str) -> str:
        return CODE.sub(lambda found: names.reference(found[1], self.known) or found[0], line)
