"""The costs of every example of a source, measured once and kept."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from treepack.dataset._settings import find_family, is_one_of, positive
from treepack.errors import CostError, DatasetError
from treepack.families.settings import describe
from treepack.measuring.bar import progress_bar
from treepack.measuring.measurer import Piece, Task, names_of_first
from treepack.measuring.parts import Parts
from treepack.measuring.workers import Range, count_workers, measure_here, measure_in_workers
from treepack.options import OnError
from treepack.sources.costs import Branches, CostTable, from_parquet
from treepack.sources.costs.parquet import BRANCH_TOKENS
from treepack.sources.protocol import check_source, is_map_style

LEAST, MOST = 64, 16_384
"""Examples of a piece: few enough that a run that is cut off loses little."""


def measure(
    source: Any,
    family: Any = None,
    *,
    workers: int | None = None,
    out: str | os.PathLike[str] | None = None,
    names: Sequence[str] | None = None,
    shapes: bool = True,
    on_error: OnError = "raise",
    progress: bool | None = None,
    ray: bool = False,
) -> CostTable:
    """Measure every example of a source; files are opened, no pixel is decoded.

    Each example is measured as `PackedDataset` measures it, so the table says what it would have
    said. Of a model family, nothing is loaded; trees of a source of one's own are.

    With ``out=``, what is done is kept in the folder ``<out>.parts``: a run that was cut off goes
    on where it stopped when it is called again. The table appears when it is whole.

    Args:
        source: the examples, read by index.
        family: of the model, as `PackedDataset` takes it, or a processor; ``None`` if the source
            gives `MessageTree`.
        workers: processes that measure; by default one for each core, 0 for this one alone. They
            are started anew, so a script must begin under ``if __name__ == "__main__"``.
        out: path of a Parquet file for the table, with a column ``name`` of what errors call the
            examples; needs pyarrow.
        names: of the costs; by default those of the family, or those of the first example.
        shapes: whether the columns ``branches``, ``targets`` (tokens that are trained on) and
            ``pairs`` (of query and key that attention computes for the example, the area of its
            mask) are measured, too, and ``branch_tokens``, a list of the tokens of each branch,
            from which trees can be split without being loaded (``oversize="split"``). Where a
            source measures by itself, they need its trees.
        on_error: what becomes of an example that cannot be read or measured: ``"raise"``; or
            ``"skip"``, and it stands in the table without costs. `PackedDataset` then raises or
            skips it.
        progress: whether a bar is shown; by default on a terminal. It needs rich.
        ray: whether Ray Data measures, on the machines of its cluster; ``workers`` are then its
            actors. It keeps no parts.

    Returns:
        The table, in the order of the source. It remembers the settings of the family, so that
        `PackedDataset` rejects it with others.

    Raises:
        CostError: parts of a run with other settings lie beside ``out``.
        DataError: an example that cannot be measured, by name; or a worker that died.
        DatasetError: a source that is not read by index, or that cannot be sent to workers.
        MissingPackageError: pyarrow or ray is not installed, and was asked for.

    Example:
        >>> import treepack as tp
        >>> answers = [tp.MessageTree([5, 6], labels=[5, 6]), tp.MessageTree([7])]
        >>> source = [tp.MessageTree([1, 2, 3], children=answers), tp.MessageTree([4])]
        >>> table = tp.costs.measure(source, workers=0)
        >>> table[0]
        {'tokens': 6, 'branches': 2, 'targets': 2, 'pairs': 19}
        >>> dataset = tp.PackedDataset(source, costs=table, budgets={"tokens": 8})
    """
    skips = is_one_of("on_error", on_error, "skip")
    task = _task(source, family, names, bool(shapes), skips)
    n, settings = len(source), describe(task.family)
    target = None if out is None else Path(out)
    if ray:
        return _with_ray(task, n, workers, target, settings)
    processes = count_workers(workers)
    chunk = min(max(n // 256, LEAST), MOST)
    if target is None:
        ranges = [(a, min(a + chunk, n)) for a in range(0, n, chunk)]
        return _table(_pieces(task, ranges, processes, n, progress), settings)
    parts = Parts(target, _about(task, settings), n, chunk)
    for piece in _pieces(task, parts.missing, processes, n, progress):
        parts.write(piece)
    if not skips:
        _raise_reasons(parts)
    parts.join(settings)
    return from_parquet(target, [*task.columns, *([BRANCH_TOKENS] if task.has_shapes else [])])


def _task(source: Any, family: Any, names: Any, has_shapes: bool, skips: bool) -> Task:
    check_source(source)
    if not is_map_style(source):
        raise DatasetError(
            f"measuring needs a source with __len__ and __getitem__, got {type(source).__name__}"
        )
    if not len(source):
        raise DatasetError("the source holds no examples, so there is nothing to measure")
    family = _family(family)
    told = tuple(names) if names is not None else names_of_first(source, family)
    return Task(source, family, told, has_shapes, skips)


def _family(family: Any) -> Any:
    """A family, also of a processor."""
    if family is None or hasattr(family, "measure"):
        return find_family(None, family, None, {})
    return find_family(family, None, None, {})


def _pieces(
    task: Task, ranges: Sequence[Range], workers: int, n: int, progress: bool | None
) -> Iterator[Piece]:
    workers = min(workers, len(ranges))
    run = measure_in_workers(task, ranges, workers) if workers > 1 else measure_here(task, ranges)
    done = n - sum(end - start for start, end in ranges)
    with progress_bar("Measuring", n, done, progress) as advance, closing(run) as found:
        for piece in found:
            yield piece
            advance(len(piece.names))


def _table(pieces: Iterable[Piece], settings: dict[str, Any]) -> CostTable:
    ordered = sorted(pieces, key=lambda piece: piece.start)
    columns = {
        name: np.concatenate([piece.columns[name] for piece in ordered])
        for name in ordered[0].columns
    }
    reasons = {index: why for piece in ordered for index, why in piece.reasons.items()}
    lists = [piece.branches for piece in ordered if piece.branches is not None]
    branches = Branches.joining(lists) if lists else None
    return CostTable(columns, settings=settings, reasons=reasons, branches=branches)


def _with_ray(
    task: Task, n: int, workers: int | None, out: Path | None, settings: dict[str, Any]
) -> CostTable:
    from treepack.measuring.with_ray import measure_with_ray

    chunk = min(max(n // 256, LEAST), MOST)
    pieces = list(measure_with_ray(task, n, positive("workers", workers), chunk))
    if out is not None:
        parts = Parts(out, _about(task, settings), n, chunk)
        for piece in pieces:
            parts.write(piece)
        parts.join(settings)
    return _table(pieces, settings)


def _raise_reasons(parts: Parts) -> None:
    """Raise what a run before this one, which skipped, could not measure."""
    for piece in parts.read():
        for reason in piece.reasons.values():
            raise CostError(f"{reason} (in {parts.folder}, of a run that skipped it)")


def _about(task: Task, settings: dict[str, Any]) -> dict[str, Any]:
    """What parts must agree in."""
    path = str(getattr(getattr(task.source, "store", None), "path", "") or "")
    file = Path(path)
    state = file.stat() if path and file.is_file() else None
    return {
        "number of examples": len(task.source),
        "file": [path, state.st_size, state.st_mtime_ns] if state else path,
        "choice of columns": [*task.columns, *([BRANCH_TOKENS] if task.has_shapes else [])],
        "processor": settings,
    }
