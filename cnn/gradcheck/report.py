"""What a gradient check found, for a person and for a program."""

from dataclasses import asdict, dataclass
from html import escape

from cnn.notebook import html_table

OK, KINK, ROUNDING, BUG = "OK", "KINK", "ROUNDING", "BUG"
CLASSES = (OK, ROUNDING, KINK, BUG)  # from harmless to wrong

_LEGEND = """\
OK        backward agrees with the difference of forward
ROUNDING  the difference cannot be computed more exactly than it differs
KINK      a ReLU mask or a pool's winner changes within the step: forward has no derivative there
BUG       backward is not the gradient of forward"""


@dataclass(frozen=True)
class Entry:
    """One comparison: a number of one tensor's gradient, or the gradient along one direction.

    ``layer`` and ``type`` say whose; ``tensor`` is "x" or a parameter's name; ``mode`` "train" or "eval";
    ``where`` an index such as "[0, 3, 1, 1]", "direction 1" or what else was examined.
    """

    layer: str
    type: str
    tensor: str
    mode: str
    backend: str
    where: str
    analytic: float
    numeric: float
    kind: str
    hint: str = ""

    @property
    def error(self):
        """Relative error: |analytic - numeric| / max(|analytic|, |numeric|)."""
        largest = max(abs(self.analytic), abs(self.numeric))
        return abs(self.analytic - self.numeric) / largest if largest else 0.0


class Report:
    """All entries of a check. ``str()`` is a table, ``to_json()`` plain data, ``exit_code`` 0 or 5."""

    def __init__(self, entries):
        self.entries = list(entries)

    @property
    def ok(self):
        """Whether there is no BUG."""
        return not self.bugs

    @property
    def bugs(self):
        """The entries that are wrong."""
        return [entry for entry in self.entries if entry.kind == BUG]

    @property
    def exit_code(self):
        """What the command returns."""
        return 0 if self.ok else 5

    def counts(self):
        """Return how many entries each class has."""
        return {kind: sum(entry.kind == kind for entry in self.entries) for kind in CLASSES}

    def to_json(self):
        """Return the report as dicts, lists, strings and numbers (NaN as a string, which JSON lacks)."""

        def plain(value):
            return value if not isinstance(value, float) or abs(value) < float("inf") else str(value)

        rows = [{**asdict(entry), "error": entry.error} for entry in self.entries]
        rows = [{key: plain(value) for key, value in row.items()} for row in rows]
        return {"ok": self.ok, "counts": self.counts(), "entries": rows}

    def _table(self):
        """Return (header, rows): a row for each tensor of a layer, a column for each backend."""
        groups = {}
        for entry in self.entries:
            groups.setdefault((entry.layer, entry.type, entry.tensor, entry.mode), []).append(entry)
        backends = list(dict.fromkeys(entry.backend for entry in self.entries))
        header = ("layer", "type", "tensor", "mode", *backends)
        rows = [(*key, *(_cell(group, backend) for backend in backends)) for key, group in groups.items()]
        return header, rows

    def _verdict(self):
        counts = self.counts()
        total = ", ".join(f"{counts[kind]} {kind}" for kind in CLASSES if counts[kind])
        return f"{'passed' if self.ok else 'FAILED'}: {total}"

    def _repr_html_(self):
        findings = escape("\n".join(self._findings()))
        return html_table(*self._table(), self._verdict()) + (f"<pre>{findings}</pre>" if findings else "")

    def __str__(self):
        header, rows = self._table()
        widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in (header, *rows)
        ]
        lines.insert(1, "-" * max(map(len, lines)))
        return "\n".join([*lines, "", *self._findings(), *_LEGEND.splitlines(), "", self._verdict()])

    def _findings(self):
        """Return a paragraph about each wrong tensor."""
        lines, seen = [], set()
        for entry in self.bugs:
            key = (entry.layer, entry.tensor, entry.hint)
            if key in seen:
                continue
            seen.add(key)
            lines += [
                f"BUG in layer {entry.layer} ({entry.type}), {entry.tensor}, {entry.mode}, {entry.backend}, "
                f"{entry.where}:",
                f"    analytic {entry.analytic:.9g}, numeric {entry.numeric:.9g}, "
                f"relative error {entry.error:.2g}",
                *([f"    {entry.hint}"] if entry.hint else []),
            ]
        return [*lines, ""] if lines else []


def _cell(group, backend):
    """Return the classes of one tensor under one backend, and the largest error among the worst class."""
    mine = [entry for entry in group if entry.backend == backend]
    if not mine:
        return ""
    counts = [(kind, sum(entry.kind == kind for entry in mine)) for kind in reversed(CLASSES)]
    counts = [(kind, count) for kind, count in counts if count]
    judged = [entry.error for entry in mine if entry.kind == (BUG if counts[0][0] == BUG else OK)]
    text = ", ".join(f"{count} {kind}" for kind, count in counts)
    return f"{text}  {max(judged):.0e}" if judged else text
