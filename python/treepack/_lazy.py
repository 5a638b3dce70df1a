"""Names of a package that are imported at their first use."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def lazy_names(package: str, names: Mapping[str, str]) -> tuple[Callable[[str], Any], Any]:
    """The functions ``__getattr__`` and ``__dir__`` of a package.

    Args:
        package: its ``__name__``.
        names: for each public name the module that defines it, or that it is.

    Raises:
        AttributeError: from ``__getattr__``, for any other name.

    Source:
        PEP 562.
    """

    def getattr_(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = importlib.import_module(names[name])
        value = module if names[name] == f"{package}.{name}" else getattr(module, name)
        setattr(sys.modules[package], name, value)
        return value

    def dir_() -> list[str]:
        return sorted({*vars(sys.modules[package]), *names})

    return getattr_, dir_
