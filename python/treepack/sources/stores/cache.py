"""Files that are made once out of other files, to be read by number."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path

from treepack.errors import DataError

logger: logging.Logger = logging.getLogger("treepack")

SAMPLE = 1 << 16
"""Bytes at either end of a file that are hashed: a whole file of 100 GB would take minutes."""


def cached_file(
    path: Path, ending: str, folder: Path | None, make: Callable[[Path], None], why: str
) -> Path:
    """The file that is made out of another one, made if it is not there.

    It is called by the size, the time of change and a hash of both ends of the other, so one that
    has changed is made anew. It is written under another name first: whoever sees it sees all of
    it, and of several processes that make it at once the last one wins, with the same contents.

    Args:
        path: of the other file.
        ending: of the name of what is made.
        folder: where it lies; ``None`` is beside the other one.
        make: writes it to a path.
        why: what is made, for the log.

    Raises:
        DataError: it cannot be written.
    """
    target = (folder or path.parent) / f"{path.name}.{_key(path)}{ending}"
    if target.exists():
        return target
    started = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    logger.info("%s: %s is written to %s", path, why, target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        make(started)
        started.replace(target)
    except OSError as error:
        raise DataError(
            f"{path}: {why} cannot be written to {target.parent}: {error.strerror or error}; name "
            "a folder with room that may be written to with cache="
        ) from error
    finally:
        with contextlib.suppress(OSError):
            started.unlink(missing_ok=True)
    return target


def _key(path: Path) -> str:
    status = path.stat()
    digest = blake2b(f"{status.st_size} {status.st_mtime_ns}".encode(), digest_size=8)
    with path.open("rb") as file:
        digest.update(file.read(SAMPLE))
        file.seek(max(status.st_size - SAMPLE, 0))
        digest.update(file.read(SAMPLE))
    return digest.hexdigest()
