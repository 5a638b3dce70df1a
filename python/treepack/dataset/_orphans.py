"""A worker ends with its trainer, however that one ends."""

from __future__ import annotations

import os
import threading
from multiprocessing import parent_process
from multiprocessing.connection import wait
from typing import Any

_watching = 0
"""The process in which the watch runs; a fork inherits the number, but not the thread."""


def end_with_parent() -> None:
    """Make this worker end with the process that reads its batches; a second call does nothing.

    torch's workers notice a parent that is gone only between two batches, and one that waits for
    room in its queue waits for ever: after a SIGKILL of the trainer, workers would hold memory and
    GPUs' host buffers until somebody looks. A daemon thread waits for the end of the parent itself.
    The kernel's own signal (``PR_SET_PDEATHSIG``) would not do: it is sent when the *thread* ends
    that started the worker, and under forkserver that is another process.
    """
    global _watching
    parent = parent_process()
    if parent is None or _watching == os.getpid():
        return
    _watching = os.getpid()
    try:
        # On Linux a handle of the process itself; the sentinel is a pipe, which lives on in every
        # other fork of the trainer.
        gone: Any = os.pidfd_open(parent.pid or 0)
    except ProcessLookupError:
        os._exit(1)
    except (AttributeError, OSError):
        gone = parent.sentinel
    threading.Thread(target=_exit_after, args=(gone,), daemon=True, name="treepack-parent").start()


def _exit_after(gone: Any) -> None:
    wait([gone])
    os._exit(1)
