"""Names of a package that are imported at their first use."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

from treepack._packages import is_installed, needing


def lazy_names(
    package: str, names: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The functions ``__getattr__`` and ``__dir__`` of a package.

    ``dir`` gives the names in ``__all__``, without those whose packages are not installed.

    Args:
        package: its ``__name__``.
        names: for each public name the module that defines it, or that it is; after it in brackets
            the extra that it needs, if it needs one: ``"treepack.batch[torch]"``.

    Raises:
        AttributeError: from ``__getattr__``, for any other name.
        MissingPackageError: from ``__getattr__``, where a package of the extra is not installed.

    Source:
        PEP 562.
    """
    homes = {name: home.removesuffix("]").partition("[")[::2] for name, home in names.items()}

    def getattr_(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        home, extra = homes[name]
        with needing(extra, f"{package}.{name}"):
            module = importlib.import_module(home)
            value = module if home == f"{package}.{name}" else getattr(module, name)
        setattr(sys.modules[package], name, value)
        return value

    def dir_() -> list[str]:
        public = vars(sys.modules[package])["__all__"]
        return sorted(name for name in public if is_installed(homes.get(name, ("", ""))[1]))

    return getattr_, dir_
