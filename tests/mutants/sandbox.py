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

from mutants.find import Mutant
from mutants.groups import PACKAGE
from mutants.profile import InOrder, Noting, Profile

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
        cases: TREEPACK_CASES.
    """

    def __init__(self, root: Path, folder: Path, cases: float) -> None:
        self.root = root
        self.cases = cases
        self.path = folder / "python"
        self.log = folder / "tests.log"
        self.profile = folder / "profile.json"
        shutil.rmtree(self.path, ignore_errors=True)
        shutil.copytree(root / PACKAGE, self.path / "treepack")
        compileall.compile_dir(self.path, quiet=2)

    def note(self, tests: Sequence[str], skip: Sequence[str], limit: float) -> Outcome:
        """Run all the tests once, and note what they call."""
        leave_out = ["-k", " and ".join(f"not {word}" for word in skip)] if skip else []
        plugin = Noting(self.path, self.profile)
        return self._run([*leave_out, *tests], plugin, limit)

    def test(self, mutant: Mutant, limit: float) -> Outcome:
        """Run the tests that call the function of a mutant, until the first that fails."""
        tests = Profile.read(self.profile).tests_of(mutant)
        files = dict.fromkeys(test.partition("::")[0] for test in tests)
        path = self.path / Path(mutant.file).relative_to("python")
        before = path.read_text("utf-8")
        for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
            compiled.unlink()
        try:
            path.write_text(mutant.text, "utf-8")
            return self._run(list(files), InOrder(tests), limit)
        finally:
            path.write_text(before, "utf-8")

    def import_what_tests_import(self) -> None:
        """Once for all runs: every foreign module that the last one noted."""
        for name in Profile.read(self.profile).modules:
            # Some can be imported by their package alone.
            with contextlib.suppress(Exception):
                importlib.import_module(name)
        # What is here stays, so a run need not look whether it is garbage.
        gc.freeze()
        atexit.register(gc.unfreeze)

    def _run(self, arguments: Sequence[str], plugin: object, limit: float) -> Outcome:
        start = time.monotonic()
        with self.log.open("w") as log:
            process = os.fork()
            if not process:
                _run_child(log.fileno(), lambda: self._pytest(arguments, plugin))
            verdict = _wait(process, limit)
        return Outcome(verdict, time.monotonic() - start)

    def _pytest(self, arguments: Sequence[str], plugin: object) -> int:
        os.chdir(self.root)
        os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        os.environ["TREEPACK_CASES"] = str(self.cases)
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        os.environ["PYTHONPATH"] = f"{self.path}:{os.environ.get('PYTHONPATH', '')}"
        sys.path.insert(0, str(self.path))
        sys.dont_write_bytecode = True
        _fork_ranks()
        plugins = ["-p", "no:cacheprovider", "-p", "pytest_timeout"]
        code = pytest.main(["-x", "--tb=short", *plugins, *arguments], plugins=[plugin])
        found = sys.modules.get("treepack")
        if found is not None and not found.__file__.startswith(str(self.path)):
            print("the tests imported another treepack:", found.__file__)
            return OTHER_PACKAGE
        return int(code)


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
