"""What the doctor found, for a person and for a program."""

import math
import textwrap
from dataclasses import asdict, dataclass

from cnn.language import fill, pad, translate, width

OK, WARN, FAIL = "OK", "WARN", "FAIL"
VERDICTS = (OK, WARN, FAIL)  # from healthy to broken
_WIDTH = 108


@dataclass(frozen=True)
class Finding:
    """One check: ``measured`` against ``expected``, both as text, and ``advice`` unless the verdict is OK.

    ``value`` is the measured number itself, None where it is not one number.
    """

    check: str
    verdict: str
    measured: str
    expected: str
    advice: str = ""
    value: float | None = None


def finding(check, verdict, measured, expected, advice, value=None):
    """Return a Finding; a healthy one needs no advice."""
    number = None if value is None else float(value)
    return Finding(check, verdict, measured, expected, "" if verdict == OK else advice, number)


def grade(value, warn, fail):
    """Return the verdict on a number that should stay at or below ``warn``; a NaN is a FAIL."""
    if not value <= fail:
        return FAIL
    return OK if value <= warn else WARN


class Report:
    """All findings. ``str()`` is a table, ``to_json()`` plain data, ``exit_code`` 0, or 5 after a FAIL."""

    def __init__(self, findings):
        self.findings = list(findings)

    def __getitem__(self, check):
        """Return the finding of this name."""
        return next(f for f in self.findings if f.check == check)

    @property
    def verdict(self):
        """The worst verdict."""
        return max((f.verdict for f in self.findings), key=VERDICTS.index, default=OK)

    @property
    def exit_code(self):
        """What the command returns."""
        return 5 if self.verdict == FAIL else 0

    def counts(self):
        """Return how many findings have each verdict."""
        return {verdict: sum(f.verdict == verdict for f in self.findings) for verdict in VERDICTS}

    def to_json(self):
        """Return the report as plain data (NaN and Inf as strings, which JSON lacks)."""
        rows = [asdict(f) for f in self.findings]
        for row in rows:
            if row["value"] is not None and not math.isfinite(row["value"]):
                row["value"] = str(row["value"])
        return {"verdict": self.verdict, "counts": self.counts(), "findings": rows}

    def __str__(self):
        rows = [(f, translate(f.check), translate(f.measured), translate(f.expected)) for f in self.findings]
        name = max(width(check) for _, check, _, _ in rows)
        room = min(64, max(width(measured) for _, _, measured, _ in rows))
        lines = []
        for f, check, measured, expected in rows:
            wanted = fill("expected {what}", what=expected)
            lines.append(f"{f.verdict:4}  {pad(check, name)}  {pad(measured, room)}  {wanted}")
            if f.advice:
                advice, indent = translate(f.advice), " " * 6
                columns = (
                    _WIDTH if advice == f.advice else _WIDTH // 2
                )  # Chinese characters are twice as wide
                lines += textwrap.wrap(
                    f"-> {advice}", columns, initial_indent=indent, subsequent_indent=indent
                )
        counts = self.counts()
        return "\n".join([*lines, "", ", ".join(f"{counts[v]} {v}" for v in VERDICTS)])
