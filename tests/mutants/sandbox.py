"""A copy of the package that may be broken, and processes that test it.

Each run of the tests is a fork of this process, which has imported what takes long (torch) and
nothing of the package. The copy lies before everything else on the path, also for what the tests
start.
"""

from __future__ import annotations

import atexit
import compileall
import contextlib
import gc
import importlib
import json
import multiprocessing
import os
import select
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from mutants.groups import PACKAGE

SLOW = ("torch", "torchvision", "torchdata", "transformers", "sympy", "numpy", "pandas", "pyarrow")
"""What may be imported before pytest, which wants to import its own plugins itself."""

OTHER_PACKAGE = 99
"""Exit code of tests that did not judge the copy."""


class Outcome(NamedTuple):
    """What the tests said: ``"passed"``, ``"failed"`` or ``"timeout"``, and after which time."""

    verdict: str
    seconds: float


class Sandbox:
    """A copy of the package.

    Args:
        root: of the repository.
        folder: for the copy; it is made anew.
    """

    def __init__(self, root: Path, folder: Path) -> None:
        self.root = root
        self.path = folder / "python"
        self.log = folder / "tests.log"
        self.profile = folder / "profile.json"
        shutil.rmtree(self.path, ignore_errors=True)
        shutil.copytree(root / PACKAGE, self.path / "treepack")
        compileall.compile_dir(self.path, quiet=2)

    def test(
        self, tests: Sequence[str], skip: Sequence[str], cases: float, limit: float
    ) -> Outcome:
        """Run tests on the copy in a process of their own, until the first that fails."""
        start = time.monotonic()
        with self.log.open("w") as log:
            process = os.fork()
            if not process:
                _run_child(log.fileno(), lambda: self._pytest(tests, skip, cases))
            verdict = _wait(process, limit)
        return Outcome(verdict, time.monotonic() - start)

    def test_with(self, file: str, text: str, **options) -> Outcome:
        """The same, with another text in one file of the package."""
        path = self.path / Path(file).relative_to("python")
        before = path.read_text("utf-8")
        for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
            compiled.unlink()
        try:
            path.write_text(text, "utf-8")
            return self.test(**options)
        finally:
            path.write_text(before, "utf-8")

    def import_what_tests_import(self) -> None:
        """Once for all runs: every foreign module that the last one noted."""
        for name in json.loads(self.profile.read_text())["modules"]:
            # Some can be imported by their package alone.
            with contextlib.suppress(Exception):
                importlib.import_module(name)
        # What is here stays, so a run need not look whether it is garbage.
        gc.freeze()
        atexit.register(gc.unfreeze)

    def _pytest(self, tests: Sequence[str], skip: Sequence[str], cases: float) -> int:
        os.chdir(self.root)
        os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        os.environ["TREEPACK_CASES"] = str(cases)
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        os.environ["PYTHONPATH"] = f"{self.path}:{os.environ.get('PYTHONPATH', '')}"
        sys.path.insert(0, str(self.path))
        sys.dont_write_bytecode = True
        _fork_ranks()
        leave_out = ["-k", " and ".join(f"not {word}" for word in skip)] if skip else []
        settings = [
            "-x",
            "-p",
            "no:cacheprovider",
            "-p",
            "pytest_timeout",
            "--tb=short",
            *leave_out,
        ]
        code = pytest.main([*settings, *tests], plugins=[_FastFirst(self.profile)])
        found = sys.modules.get("treepack")
        if found is not None and not found.__file__.startswith(str(self.path)):
            print("the tests imported another treepack:", found.__file__)
            return OTHER_PACKAGE
        return int(code)


class _FastFirst:
    """Runs slow tests last, by what a whole run took, and notes it after one."""

    def __init__(self, profile: Path) -> None:
        self.profile = profile
        known = json.loads(profile.read_text()) if profile.exists() else {}
        self.seconds: dict[str, float] = known.get("seconds", {})

    def pytest_collection_modifyitems(self, items) -> None:
        files = list(dict.fromkeys(item.path for item in items))
        # The fixtures of a file are made once: its tests stay together, those that need them last.
        items.sort(key=lambda item: (files.index(item.path), self._cost(item)))

    def _cost(self, item) -> tuple[bool, float]:
        fixtures = item._fixtureinfo.name2fixturedefs.values()
        shares = any(found[-1].scope == "module" for found in fixtures)
        return shares, round(self.seconds.get(item.nodeid, 0), 1)

    def pytest_runtest_logreport(self, report) -> None:
        if report.when == "call":
            self.seconds[report.nodeid] = report.duration

    def pytest_sessionfinish(self, exitstatus) -> None:
        if exitstatus == 0:
            modules = [name for name in sys.modules if name.partition(".")[0] in SLOW]
            told = {"seconds": self.seconds, "modules": modules}
            self.profile.write_text(json.dumps(told))


def _fork_ranks() -> None:
    """Start ranks as forks, whatever a test asks for: everything is imported here already."""
    import torch.multiprocessing as mp

    def start(function, *arguments, start_method, **options):
        return real(function, *arguments, start_method="fork", **options)

    real, mp.start_processes = mp.start_processes, start


def _run_child(log: int, run: Callable[[], int]) -> None:
    code = 98
    try:
        os.setsid()
        os.dup2(log, 1)
        os.dup2(log, 2)
        code = run()
    except BaseException:
        traceback.print_exc()
    finally:
        for process in multiprocessing.active_children():
            process.kill()
        sys.stdout.flush()
        os._exit(code)


def _wait(process: int, limit: float) -> str:
    descriptor = os.pidfd_open(process)
    ready, _, _ = select.select([descriptor], [], [], limit)
    os.close(descriptor)
    # Also what the tests have started and a fault has left behind.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    if not ready:
        return "timeout"
    code = os.waitstatus_to_exitcode(status)
    if code == OTHER_PACKAGE:
        raise RuntimeError("the tests imported another treepack; see tests.log")
    return "passed" if code == 0 else "failed"
