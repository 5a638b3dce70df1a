"""Which tests call which functions, and how long each takes: noted once, used by all other runs."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterable
from itertools import accumulate
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import pytest

from mutants.find import Mutant

PYTEST = ("_pytest", "pytest", "pytest_timeout", "pluggy", "py")
OURS = ("treepack", "helpers", "mutants", "conftest", "tests", "__main__")

MOST_SECONDS = 15
"""Of tests that a mutant is judged by."""

LIMIT_SECONDS = 6 * MOST_SECONDS
"""Until a mutant counts as one that never ends."""


class Profile(NamedTuple):
    """What a whole run of the tests has noted.

    Attributes:
        seconds: of each test.
        calls: for each test ``file:line`` of the functions of the package that it calls; the line
            is the function's first.
        modules: foreign modules that the tests import.
    """

    seconds: dict[str, float]
    calls: dict[str, list[str]]
    modules: list[str]

    @classmethod
    def read(cls, path: Path) -> Profile:
        return cls(**json.loads(path.read_text("utf-8")))

    def tests_of(self, mutant: Mutant) -> list[str]:
        """Tests that call the function of a mutant, the fastest first; all where none is known.

        So many that they take `MOST_SECONDS`: a mutant that only the slow ones find, survives.
        """
        file, (first, last) = mutant.file.partition("/")[2], mutant.scope or (0, 0)
        wanted = {f"{file}:{line}" for line in range(first, last + 1)}
        found = [test for test, called in self.calls.items() if not wanted.isdisjoint(called)]
        fastest = sorted(found or self.seconds, key=self.seconds.__getitem__)
        ends = accumulate(self.seconds[test] for test in fastest)
        return [test for test, end in zip(fastest, ends, strict=True) if end <= MOST_SECONDS]


class Noting:
    """A plugin of pytest that makes a `Profile`.

    Args:
        package: folder of the package.
        path: where the profile is written, if all tests pass.
    """

    def __init__(self, package: Path, path: Path) -> None:
        self.package = package
        self.path = path
        self.seconds: dict[str, float] = {}
        self.log = path.with_suffix(".calls").open("w+b", buffering=0)
        # Those that share the fixtures of a file; the first one makes them.
        self.sharing: dict[Path, list[str]] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Any:
        fixtures = item._fixtureinfo.name2fixturedefs.values()
        if any(found[-1].scope == "module" for found in fixtures):
            self.sharing.setdefault(item.path, []).append(item.nodeid)
        self._trace(self._tracer(item.nodeid))
        try:
            return (yield)
        finally:
            self._trace(None)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            self.seconds[report.nodeid] = report.duration

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        if exitstatus == 0:
            modules = [name for name in sys.modules if name.partition(".")[0] not in PYTEST + OURS]
            profile = Profile(self.seconds, self._calls(), modules)
            self.path.write_text(json.dumps(profile._asdict()), "utf-8")

    def _trace(self, tracer: Any) -> None:
        sys.settrace(tracer)
        threading.settrace(tracer)

    def _tracer(self, test: str) -> Any:
        seen: set[int] = set()
        package, log = f"{self.package}/", self.log.fileno()

        def trace(frame: FrameType, event: str, argument: Any) -> None:
            code = frame.f_code
            if id(code) not in seen:
                seen.add(id(code))
                if code.co_filename.startswith(package):
                    file = code.co_filename.removeprefix(package)
                    # At once: a process that the test has forked writes to the same file.
                    os.write(log, f"{test}\0{file}:{code.co_firstlineno}\n".encode())

        return trace

    def _calls(self) -> dict[str, list[str]]:
        calls: dict[str, set[str]] = {test: set() for test in self.seconds}
        self.log.seek(0)
        for line in self.log.read().decode().splitlines():
            test, call = line.split("\0")
            calls.setdefault(test, set()).add(call)
        for tests in self.sharing.values():
            together = set().union(*(calls[test] for test in tests))
            calls.update(dict.fromkeys(tests, together))
        return {test: sorted(calls[test]) for test in self.seconds}


class InOrder:
    """A plugin of pytest that runs some tests alone, in their order."""

    def __init__(self, tests: Iterable[str]) -> None:
        self.place = {test: number for number, test in enumerate(tests)}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if item.nodeid in self.place]
        items.sort(key=lambda item: self.place[item.nodeid])
