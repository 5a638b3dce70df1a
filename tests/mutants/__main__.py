"""Break the package in many small ways and see which faults the tests find: ``make mutants``.

Results are kept in ``target/mutants/python/results.jsonl``; a run that was interrupted goes on. A
mutant is judged anew when the function around it has changed, one that survived also when a test
has.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from mutants.find import Mutant, mutants_of
from mutants.groups import GROUPS, Group, files_of, tests_of
from mutants.profile import LIMIT_SECONDS
from mutants.report import describe, report, sample
from mutants.sandbox import Outcome, Sandbox

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "target" / "mutants" / "python"


def main() -> None:
    options = parse()
    FOLDER.mkdir(parents=True, exist_ok=True)
    rows, survivors = [], []
    for name in options.group or GROUPS:
        found = all_mutants(GROUPS[name])
        chosen = sample(found, None if options.all else options.count, options.seed)
        judged = Judge(name).judge_all(chosen)
        alive = [mutant for mutant, verdict in judged if verdict == "passed"]
        rows.append((name, len(found), len(chosen), len(chosen) - len(alive), len(alive)))
        survivors += alive
    report(rows, survivors)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__)
    parser.add_argument("--group", action="append", choices=GROUPS, help="by default every group")
    parser.add_argument("--count", type=int, default=100, help="mutants of each group")
    parser.add_argument("--all", action="store_true", help="every mutant")
    parser.add_argument("--seed", type=int, default=0, help="which ones")
    return parser.parse_args()


def all_mutants(group: Group) -> list[Mutant]:
    return [mutant for path in files_of(group, ROOT) for mutant in mutants_of(path, ROOT)]


class Judge:
    """Runs the tests of a group on mutants and keeps what they say.

    Args:
        name: of the group.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.group = GROUPS[name]
        self.tests = tests_of(self.group, ROOT)
        self.version = self._version()
        self.results = FOLDER / "results.jsonl"
        self.sandbox: Sandbox | None = None

    def judge_all(self, mutants: list[Mutant]) -> list[tuple[Mutant, str]]:
        known, judged = self._known(), []
        for number, mutant in enumerate(mutants, 1):
            verdict = known.get(mutant.key)
            if verdict is None:
                outcome = self._judge(mutant)
                verdict = outcome.verdict
                self._keep(mutant, outcome)
                progress = f"{self.name} {number}/{len(mutants)} {outcome.seconds:.0f} s"
                print(f"{progress} {verdict:8}{describe(mutant)}", flush=True)
            judged.append((mutant, verdict))
        return judged

    def _version(self) -> str:
        """Another one whenever a test has changed, or what tests share."""
        files = {ROOT / test.partition("::")[0] for test in self.tests}
        files |= {*(ROOT / "tests" / "helpers").rglob("*.py")}
        texts = b"".join(file.read_bytes() for file in sorted(files))
        return hashlib.sha256(texts).hexdigest()[:16]

    def _judge(self, mutant: Mutant) -> Outcome:
        if self._version() != self.version:
            raise SystemExit("the tests have changed meanwhile; start again, it goes on from here")
        if self.sandbox is None:
            self._prepare()
        return self.sandbox.test(mutant, LIMIT_SECONDS)

    def _prepare(self) -> None:
        """The tests must pass on the package as it is, and say what they call."""
        self.sandbox = Sandbox(ROOT, FOLDER / self.name, self.group.cases)
        outcome = self.sandbox.note(self.tests, self.group.skip, 1800)
        if outcome.verdict != "passed":
            raise SystemExit(f"{self.name}: the tests fail by themselves; see {self.sandbox.log}")
        print(f"{self.name}: the tests take {outcome.seconds:.0f} s", flush=True)
        self.sandbox.import_what_tests_import()

    def _known(self) -> dict[str, str]:
        """Verdicts that still hold. More tests let no killed one live."""
        if not self.results.exists():
            return {}
        entries = map(json.loads, self.results.read_text("utf-8").splitlines())
        return {
            entry["key"]: entry["verdict"]
            for entry in entries
            if entry["verdict"] != "passed" or entry["tests"] == self.version
        }

    def _keep(self, mutant: Mutant, outcome: Outcome) -> None:
        entry = mutant._asdict() | outcome._asdict() | {"group": self.name, "tests": self.version}
        del entry["text"]
        with self.results.open("a", encoding="utf-8") as out:
            out.write(json.dumps(entry) + "\n")


if __name__ == "__main__":
    main()
