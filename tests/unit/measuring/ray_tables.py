"""Tables that a local cluster of Ray measures, as JSON: ``python -m unit.measuring.ray_tables``.

A program of its own, since Ray leaves processes, warnings and sockets to the end of its process.
"""

from __future__ import annotations

import json

import treepack as tp
from helpers.tree_sources import MeasuredTrees, Trees, tree_of

N = 150
BAD = (3, 70)


def failing():
    """A source of a class that other processes can only have been sent."""

    class Failing(Trees):
        def __getitem__(self, index):
            if index in BAD:
                raise OSError(f"no such file {index}.png")
            return tree_of(index)

    return Failing(N)


def sources():
    return {"loaded": Trees(N), "measured": MeasuredTrees(N), "one": Trees(1), "bad": failing()}


def table(source, **options):
    """Everything in a table of costs."""
    found = tp.costs.measure(source, on_error="skip", **options)
    columns = {name: column.tolist() for name, column in found.columns.items()}
    types = {name: str(column.dtype) for name, column in found.columns.items()}
    reasons = {str(index): reason for index, reason in found.reasons.items()}
    return {"columns": columns, "types": types, "reasons": reasons}


def main() -> None:
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    tables = {name: table(source, workers=2, ray=True) for name, source in sources().items()}
    try:
        tp.costs.measure(failing(), workers=1, ray=True)
    except tp.errors.DataError as error:
        tables["error"] = str(error)
    ray.shutdown()
    print(json.dumps(tables))


if __name__ == "__main__":
    main()
