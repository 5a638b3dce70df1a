"""What was found, one line each, and all of it as a table or as JSON."""

from __future__ import annotations

import math
import textwrap
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from treepack.check.doctor.exactness import Errors
from treepack.options import CheckResult

OK: Final = "ok"
WRONG: Final = "WRONG"
SKIPPED: Final = "skipped"
TOLD: Final = ""
"""Results of a check; the last is that of what only informs."""

WIDTHS = 9, 20, 7
"""Of the columns before the last."""

WIDTH = 80

SHORT = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}


@dataclass(frozen=True)
class Finding:
    """One line of the table.

    Attributes:
        part: of treepack or of the machine, such as a backend.
        check: what was looked at.
        result: ``"ok"``, ``"WRONG"``, ``"skipped"``, or ``""`` for what only informs.
        note: why, or what was found, in words.
        figures: numbers, for the JSON; errors are root mean squares.
    """

    part: str
    check: str
    result: CheckResult
    note: str = ""
    figures: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Diagnosis:
    """What `doctor` found.

    Attributes:
        findings: in the order of the table.
        device: what was checked, in words.
        seconds: that it took.
        ok: whether nothing is wrong.
        wrong: parts that are wrong, each once.

    Example:
        >>> found = Diagnosis([Finding("cuda", "SELF", "WRONG")], "a GPU", 1.0)
        >>> found.ok, found.wrong
        (False, ['cuda'])
    """

    findings: list[Finding]
    device: str
    seconds: float

    @property
    def wrong(self) -> list[str]:
        """Names of the parts that are wrong."""
        return list(dict.fromkeys(each.part for each in self.findings if each.result == WRONG))

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong; what was skipped is not."""
        return not self.wrong

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON takes it."""
        import treepack

        return {
            "treepack": treepack.__version__,
            "ok": self.ok,
            "wrong": self.wrong,
            "device": self.device,
            "seconds": round(self.seconds, 1),
            "findings": [asdict(each) for each in self.findings],
        }

    def __str__(self) -> str:
        """The table, in at most 80 columns."""
        head = _line("part", "check", "result", _cells("", "error", "plain", "error", "plain"))
        above = " " * (sum(WIDTHS) + 6) + _cells("", "forward", "", "backward")
        lines = [line for each in self.findings for line in _lines(each)]
        return "\n".join([above.rstrip(), head, "-" * WIDTH, *lines, "", *self._verdict()])

    def _verdict(self) -> list[str]:
        skipped = sum(each.result == SKIPPED for each in self.findings)
        said = f"Wrong: {', '.join(self.wrong)}." if self.wrong else "Nothing is wrong."
        more = f" {skipped} checks were skipped." if skipped else ""
        text = f"{said}{more} Checked on {self.device}, in {self.seconds:.0f} s."
        return textwrap.wrap(text, WIDTH)


def from_errors(part: str, check: str, found: dict[str, Errors]) -> Finding:
    """The line of a check in several dtypes: the figures are those of the worst.

    Args:
        part: the backend.
        check: name of the case.
        found: by name of the dtype.
    """
    bad = [name for name, errors in found.items() if not errors.is_exact]
    worst = max(bad or found, key=lambda name: found[name].ratio)
    figures = {name: _json(errors) for name, errors in found.items()}
    forward, backward, plain_forward, plain_backward, _ = found[worst]
    numbers = [forward, plain_forward]
    numbers += [] if backward is None else [backward, plain_backward]
    note = _cells(SHORT.get(worst, worst), *(f"{x:.1e}" for x in numbers))
    if len(bad) > 1:
        note += f"\nwrong in {', '.join(bad)}"
    return Finding(part, check, WRONG if bad else OK, note, figures)


def _json(errors: Errors) -> dict[str, Any]:
    """The figures; JSON has no NaN and no infinity."""
    return {
        name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in errors._asdict().items()
    }


def _cells(dtype: str, *texts: str) -> str:
    return " ".join([dtype.ljust(4), *(text.ljust(7) for text in texts)]).rstrip()


def _line(part: str, check: str, result: str, note: str) -> str:
    cells = zip((part, check, result), WIDTHS, strict=True)
    return ("  ".join(text.ljust(width) for text, width in cells) + "  " + note).rstrip()


def _lines(finding: Finding) -> list[str]:
    room = WIDTH - sum(WIDTHS) - 6
    notes = [
        line
        for text in finding.note.split("\n")
        # Figures in their columns are kept as they are.
        for line in ([text] if len(text) <= room else textwrap.wrap(text, room))
    ]
    first = _line(finding.part, finding.check, finding.result, notes[0])
    return [first, *(_line("", "", "", note) for note in notes[1:])]
