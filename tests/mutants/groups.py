"""Which tests must find the faults of which files."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

PACKAGE = "python/treepack"
DOCSTRINGS = "tests/docs/test_docstrings.py"


class Group(NamedTuple):
    """Files and their tests.

    Attributes:
        files: patterns under ``python/treepack``.
        tests: paths under the root of the repository, the fastest first; a ``*`` matches what
            there is.
        skip: what pytest's ``-k`` leaves out: tests that take long and judge other files.
        cases: TREEPACK_CASES, how many random cases there are to those of a whole run.
    """

    files: tuple[str, ...]
    tests: tuple[str, ...]
    skip: tuple[str, ...] = ()
    cases: float = 1.0


GROUPS = {
    "loss": Group(("hf/loss.py",), ("tests/unit/hf/test_loss*.py",)),
    "head": Group(
        ("hf/head/*.py", "hf/logprobs.py"),
        ("tests/unit/hf/test_deferred_logits.py", "tests/property/hf/test_logprobs.py"),
        cases=0.5,
    ),
    "train": Group(
        ("train.py",),
        ("tests/unit/test_train_*.py", "tests/unit/test_train.py", "tests/dataset/test_ranks.py"),
    ),
    "plan": Group(
        ("attention/plan.py",),
        (
            "tests/unit/attention/test_plan.py",
            "tests/unit/attention/*.py",
            "tests/property/test_backends.py",
            "tests/property/test_windows.py",
        ),
        skip=("waits", "errors_are", "segments", "memory", "promises_to", "graph"),
        cases=0.3,
    ),
    "batch": Group(
        ("batch/*.py",),
        ("tests/unit/batch/*.py",),
        skip=("compile", "graph"),
    ),
    "packing": Group(
        ("packing/*.py",),
        ("tests/unit/packing/*.py", "tests/property/test_packing.py"),
        cases=0.2,
    ),
    "measuring": Group(
        ("measuring/*.py", "sources/costs/*.py", "families/settings.py"),
        ("tests/unit/measuring/*.py", "tests/unit/sources/test_costs.py"),
        skip=("worker",),
    ),
    "cli": Group(("cli/*.py",), ("tests/unit/cli/*.py",)),
    "dataset": Group(
        ("dataset/*.py", "dataset/shards/*.py"),
        (
            "tests/unit/dataset/*.py",
            "tests/dataset/*.py",
            "tests/robustness/test_dataset.py",
            "tests/robustness/test_faults.py",
        ),
        skip=(
            *("spawn", "fork", "fresh", "killed", "interrupt_at_any", "interrupt_leaves"),
            *("topology", "may_change", "every_step", "checkpoint", "by_index", "test_training"),
        ),
    ),
}


def files_of(group: Group, root: Path) -> list[Path]:
    """The files of a group, in the order of their names."""
    return sorted(path for name in group.files for path in (root / PACKAGE).glob(name))


def tests_of(group: Group, root: Path) -> list[str]:
    """The test files of a group, and the examples of its files' docstrings."""
    paths = [path for name in group.tests for path in sorted(root.glob(name))]
    modules = [_module(path, root) for path in files_of(group, root)]
    examples = [f"{DOCSTRINGS}::test_examples[{module}]" for module in modules]
    names = dict.fromkeys(path.relative_to(root).as_posix() for path in paths)
    return [*names, *examples]


def _module(path: Path, root: Path) -> str:
    parts = path.relative_to(root / "python").with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")
