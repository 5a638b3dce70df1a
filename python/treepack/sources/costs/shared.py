"""Large arrays that spawned workers read from one file, where each would get a copy."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from multiprocessing.context import get_spawning_popen
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

LEAST = 1 << 20
"""Bytes from which a file is worth its while."""


class SharedArrays:
    """Arrays by name that are written to files once, when the first worker is spawned.

    A forked worker shares the memory of its parent as it is. The files lie in the folder for
    temporary ones and vanish with this object.

    Args:
        arrays: they are not modified.

    Example:
        >>> import pickle
        >>> shared = SharedArrays({"a": np.arange(3)})
        >>> pickle.loads(pickle.dumps(shared)).arrays["a"]
        array([0, 1, 2])
    """

    def __init__(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        self.arrays: dict[str, npt.NDArray[Any]] = dict(arrays)
        self._folder: str | None = None

    def _written(self) -> str:
        if self._folder is None:
            folder = tempfile.mkdtemp(prefix="treepack-")
            weakref.finalize(self, _remove, folder, os.getpid())
            for name, array in self.arrays.items():
                np.save(Path(folder, f"{name}.npy"), array)
            self._folder = folder
        return self._folder

    def __reduce__(self) -> tuple[Any, ...]:
        is_large = sum(array.nbytes for array in self.arrays.values()) >= LEAST
        if is_large and get_spawning_popen() is not None:
            # No room for a file: a copy is what is left.
            with contextlib.suppress(OSError):
                return _mapped, (self._written(), list(self.arrays))
        return SharedArrays, (self.arrays,)


def _remove(folder: str, owner: int) -> None:
    # A forked worker inherits the object, and its end is not the end of the files.
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)


def _mapped(folder: str, names: list[str]) -> SharedArrays:
    return SharedArrays(
        {name: np.load(Path(folder, f"{name}.npy"), mmap_mode="r") for name in names}
    )
