"""Everything that is worth knowing of a machine with a GPU, in nine minutes: `make gpu`.

    python benches/gpu.py                        # doctor, tests/gpu, attention.py, step.py
    python benches/gpu.py --only doctor tests --out gpu-results

Each part is a process of its own with a limit of time; what it printed until then is kept. Left are
``results.json``, with everything, and ``table.md``, for docs/performance.md. treepack is the one
that is installed, else the wheel in ``dist``. torch, pytest and hypothesis must be there; without
transformers the parts that need it are left out. The exit status is 1 if a part failed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from common import machine

ROOT = Path(__file__).parents[1]
PARTIAL = "out of time"


class Part(NamedTuple):
    """A command, and the seconds that it may take."""

    arguments: list[str]
    seconds: float


def parts(out: Path) -> dict[str, Part]:
    """What is run, in order; all together end within nine minutes."""
    # The settings of pytest are left out: they name options of plugins that need not be there.
    alone = ["-c", os.devnull, "--rootdir", str(ROOT), "-v", "-p", "no:cacheprovider"]
    # The kernels first: what is compiled takes longer.
    files = ["tests/gpu/test_kernels.py", "tests/gpu"]
    return {
        "doctor": Part(["-m", "treepack", "doctor", "--json", str(out / "doctor.json")], 120),
        "tests": Part(["-m", "pytest", *alone, "--import-mode=importlib", *files], 170),
        "attention": Part(["benches/attention.py", "--shapes", "reference", "sft", "grpo"], 120),
        "step": Part(["benches/step.py", "--packs", "1", "--rounds", "3"], 110),
    }


def run(part: Part, paths: list[str]) -> dict[str, Any]:
    """Exit status, seconds, and the lines that were printed."""
    path = os.pathsep.join([*paths, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"}
    command = [sys.executable, *part.arguments]
    began = time.monotonic()
    with tempfile.TemporaryFile("w+") as printed:
        try:
            done = subprocess.run(
                command,
                stdout=printed,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env=environment,
                timeout=part.seconds,
                check=False,
            )
            status: int | str = done.returncode
        except subprocess.TimeoutExpired:
            status = PARTIAL
        printed.seek(0)
        lines = printed.read().splitlines()
    return {"status": status, "seconds": round(time.monotonic() - began, 1), "lines": lines}


# ---- where treepack is


def find_treepack(folder: Path) -> list[str]:
    """What `PYTHONPATH` needs for treepack: the wheel unpacked, unless it is installed."""
    if importlib.util.find_spec("treepack"):
        return []
    wheels = sorted((ROOT / "dist").glob("treepack-*.whl"), key=lambda path: path.stat().st_mtime)
    if not wheels:
        sys.exit("treepack is not installed, and there is no wheel of it in dist")
    with zipfile.ZipFile(wheels[-1]) as wheel:
        wheel.extractall(folder)
    return [str(folder)]


# ---- the table


def of_doctor(lines: list[str], found: dict[str, Any] | None) -> list[list[str]]:
    """What is wrong, and the speed."""
    if found is None:
        return [["doctor", "", lines[-1] if lines else ""]]
    said = "nothing wrong" if found["ok"] else "wrong: " + ", ".join(found["wrong"])
    speed = [each for each in found["findings"] if each["part"] == "speed"]
    told = [["doctor", each["check"], each["note"]] for each in speed]
    return [["doctor", "all checks", said], *told]


def of_tests(lines: list[str], _: Any) -> list[list[str]]:
    """How many tests passed, as far as they came, and which failed."""
    ended = [match for match in map(TEST.match, lines) if match]
    counts = Counter(match["how"].lower() for match in ended)
    failed = [match["test"] for match in ended if match["how"] in ("FAILED", "ERROR")]
    said = ", ".join(f"{number} {how}" for how, number in sorted(counts.items()))
    return [["tests/gpu", "", said or (lines[-1] if lines else "")]] + [
        ["tests/gpu", "failed", test] for test in failed
    ]


TEST = re.compile(r"(?P<test>\S+::.+?) (?P<how>PASSED|FAILED|ERROR|SKIPPED)\b")
ATTENTION = re.compile(
    r"  (?P<way>.{32})\s*(?P<setup>[\d.]+) +(?P<fwd>[\d.]+) +"
    r"(?P<both>[\d.]+|nan) +(?P<x>[\d.]+|nan)"
)
STEP = re.compile(r"(?P<way>.{34})\s*(?P<seconds>\d+\.\d+)\s+(?P<rate>\d+\.\d+)\s+(?P<x>[\d.]+ x)")


def of_attention(lines: list[str], _: Any) -> list[list[str]]:
    """Forward, and forward with backward, of each way on each row."""
    rows, shape = [], ""
    for line in lines:
        if found := ATTENTION.match(line):
            fwd, both, times = found["fwd"], found["both"], found["x"]
            figures = f"forward {fwd} ms, with backward {both} ms, {times} x ours"
            rows.append([f"attention, {shape}", found["way"].strip(), figures])
        elif heading := re.match(r"(\w+, \w+): ", line):
            shape = heading[1]
    return rows


def of_step(lines: list[str], _: Any) -> list[list[str]]:
    """Seconds of a row, and annotations a second."""
    return [
        ["step", each["way"].strip(), f"{each['seconds']} s a row, {each['rate']} annotations/s"]
        for each in map(STEP.match, lines)
        if each
    ]


READERS: dict[str, Callable[[list[str], Any], list[list[str]]]] = {
    "doctor": of_doctor,
    "tests": of_tests,
    "attention": of_attention,
    "step": of_step,
}


def table(results: dict[str, Any]) -> str:
    """Everything in one table, in Markdown."""
    lines = [
        f"`make gpu`; {results['machine']}.",
        "",
        "| part | what | measured |",
        "|---|---|---|",
    ]
    for name, result in results["parts"].items():
        rows = READERS[name](result["lines"], result.get("found"))
        if not rows or result["status"] == PARTIAL:
            rows.append([name, "", f"ended with: {result['status']}"])
        lines += ["| " + " | ".join(cell.replace("|", "/") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def has_failed(name: str, status: int | str) -> bool:
    """Whether a part went wrong: a bench may run out of time, but a check may hang."""
    return status != 0 and not (status == PARTIAL and name in ("attention", "step"))


def main() -> int:
    """Run all, write both files, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=ROOT / "gpu-results", help="folder")
    parser.add_argument("--only", nargs="+", choices=READERS, default=list(READERS))
    options = parser.parse_args()
    out: Path = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"machine": machine.describe(), "parts": {}}
    with tempfile.TemporaryDirectory() as folder:
        paths = [*find_treepack(Path(folder)), str(ROOT / "tests"), str(ROOT)]
        for name in options.only:
            print(f"{name} ...", flush=True)
            result = run(parts(Path(folder))[name], paths)
            written = Path(folder) / f"{name}.json"
            if written.exists():
                result["found"] = json.loads(written.read_text())
            results["parts"][name] = result
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (out / "table.md").write_text(table(results))
    print(table(results))
    failed = [name for name, part in results["parts"].items() if has_failed(name, part["status"])]
    print(f"{out}: results.json, table.md" + (f"; failed: {', '.join(failed)}" if failed else ""))
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
