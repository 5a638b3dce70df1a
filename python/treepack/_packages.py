"""What a user is told who lacks a package: which one, what needs it, and how to install it."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager

from treepack.errors import MissingPackageError

EXTRAS: dict[str, tuple[str, ...]] = {
    "": (),
    "torch": ("torch",),
    "hf": ("torch", "transformers", "torchvision", "PIL"),
    "hybrid": ("torch", "transformers", "torchvision", "PIL", "tree_recurrence"),
    "video": ("av",),
    "rl": ("torch", "transformers", "torchvision", "PIL", "trl"),
    "lightning": ("torch", "lightning"),
    "ray": ("ray",),
    "viz": ("rich", "PIL"),
    "data": ("pyarrow",),
}
"""Modules that each extra brings; those without one are always there."""

FOR_MEDIA = {"torchvision", "PIL"}
"""Packages that extras bring for images; text alone does not need them."""

NAMES = {"PIL": "Pillow", "av": "PyAV", "ray": "Ray Data", "tree_recurrence": "tree-recurrence"}
"""What packages are called, where their module is called something else."""


@contextmanager
def needing(extra: str, what: str) -> Iterator[None]:
    """Imports in this block are those of an extra; where one is not there, the error says so.

    Args:
        extra: that brings the packages.
        what: needs them, such as ``"reading Parquet files"``.

    Raises:
        MissingPackageError: a package of the extra is not there, or not as it has to be.
        ImportError: anything else cannot be imported.
    """
    try:
        yield
    except MissingPackageError:
        raise
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS[extra]:
            raise
        raise missing(extra, what, package, error) from error


def missing(
    extra: str, what: str, package: str, error: ImportError | None = None
) -> MissingPackageError:
    """The error that says how to install a package.

    Args:
        extra: that brings it.
        what: needs it.
        package: name of its module.
        error: that its import raised.
    """
    is_there = error is not None and not isinstance(error, ModuleNotFoundError)
    name = NAMES.get(package, package)
    told = f"{what} needs {name}{f' in another version ({error})' if is_there else ''}"
    upgrade = "--upgrade " if is_there else ""
    made = MissingPackageError(f"{told}: pip install {upgrade}'treepack[{extra}]'")
    made.name = package
    return made


def is_installed(extra: str) -> bool:
    """Whether what an extra brings can be found, without what text does not need.

    Nothing is imported.
    """
    packages = [package for package in EXTRAS[extra] if package not in FOR_MEDIA]
    return all(importlib.util.find_spec(package) is not None for package in packages)
