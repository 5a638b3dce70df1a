"""Worker processes that measure pieces of a data set."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
from collections.abc import Generator, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any

from treepack.errors import DataError, DatasetError
from treepack.measuring.measurer import Measurer, Piece, Task

Range = tuple[int, int]


def count_workers(workers: int | None) -> int:
    """How many processes measure; 0 is this one alone."""
    if workers is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        return cores if cores and cores > 1 else 0
    if isinstance(workers, bool) or not hasattr(workers, "__index__") or workers < 0:
        raise DatasetError(f"workers must be None or an integer of 0 or more, got {workers!r}")
    return int(workers)


def measure_here(task: Task, ranges: Iterable[Range]) -> Generator[Piece, None, None]:
    """Pieces in order, measured in this process."""
    measurer = Measurer(task)
    for start, end in ranges:
        yield measurer.measure(start, end)


def measure_in_workers(
    task: Task, ranges: Iterable[Range], workers: int
) -> Generator[Piece, None, None]:
    """Pieces in the order in which they are done.

    Each worker has a pipe of its own, so that one that dies is noticed, whatever it held.

    Raises:
        DatasetError: the source or the family cannot be sent to other processes.
        DataError: a worker died.
        TreepackError: what a worker raised.
    """
    payload = _packed(task)
    # A fork would copy threads of torch and tokenizers in whatever state they are.
    methods = multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    todo = iter(ranges)
    busy: dict[Any, tuple[Any, Range]] = {}
    processes = []
    try:
        for given in _take(todo, workers):
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(payload, there), daemon=True)
            process.start()
            there.close()
            here.send(given)
            processes.append(process)
            busy[here] = process, given
        while busy:
            ready: list[Any] = wait(list(busy))
            for connection in ready:
                process, given = busy.pop(connection)
                yield _receive(connection, process, given)
                for following in _take(todo, 1):
                    connection.send(following)
                    busy[connection] = process, following
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()


def _take(ranges: Iterator[Range], n: int) -> Iterator[Range]:
    for _, given in zip(range(n), ranges, strict=False):
        yield given


def _packed(task: Task) -> bytes:
    try:
        return pickle.dumps(task)
    except Exception as error:
        raise DatasetError(
            f"{type(task.source).__name__} and its family cannot be sent to worker processes "
            f"({type(error).__name__}: {error}); pass workers=0"
        ) from error


def _receive(connection: Connection, process: Any, given: Range) -> Piece:
    try:
        found: Piece | Exception = connection.recv()
    except (EOFError, ConnectionError):
        process.join(10)
        start, end = given
        raise DataError(
            f"a worker ended with code {process.exitcode} while it measured examples {start} to "
            f"{end - 1}; if memory ran out, use fewer workers. What was measured before is kept "
            "if out= was given"
        ) from None
    if isinstance(found, Exception):
        raise found
    return found


def _serve(payload: bytes, connection: Connection) -> None:
    """What a worker does, until its pipe is closed."""
    # Ctrl-C reaches every process of a terminal; the one that reads this pipe ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import torch

    torch.set_num_threads(1)
    try:
        measurer = Measurer(pickle.loads(payload))
    except Exception as error:
        connection.recv()
        connection.send(_sendable(error))
        return
    while True:
        try:
            start, end = connection.recv()
        except EOFError:
            return
        try:
            connection.send(measurer.measure(start, end))
        except Exception as error:
            connection.send(_sendable(error))


def _sendable(error: Exception) -> Exception:
    """The error as it crosses a pipe; one that cannot becomes a `DataError` of the same text."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return DataError(f"{type(error).__name__}: {error}")
    return error
