"""The table of a network: shapes, parameters, multiply-adds, and the memory that training will need."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from cnn import backend
from cnn.language import fill, pad, phrase, width
from cnn.layers import Sequential
from cnn.notebook import html_table

PROGRAM = 160 << 20  # bytes, measured: LeNet-5, whose own arrays are small, on Linux with CPython 3.11


def summarize(network: Any, batch_size: int) -> "Summary":
    """Return the Summary of a built network for batches of ``batch_size``."""
    itemsize = network.parameters()[0].dtype.itemsize if network.parameters() else 4
    rows = []
    for name, layer in network.walk():
        own = 0 if isinstance(layer, Sequential) else math.prod(layer.output_shape)  # its last layer's
        rows.append(
            SummaryRow(
                name,
                type(layer).__name__,
                layer.output_shape,
                sum(p.size for p in layer.parameters()),
                layer.macs() * batch_size,
                own * itemsize * batch_size,
                not layer.children(),
                sum(p.size for p in layer.parameters() if not p.trainable),
            )
        )
    return Summary(network.input_shape, batch_size, rows, training_memory(network, batch_size))


@dataclass(frozen=True)
class Memory:
    """Bytes of a training process by what they are for: the predicted peak.

        program       what Python, NumPy and the compiled kernels take before any data come
        parameters    values and gradients, and the optimizer's momentum: three numbers each
        activations   what forward keeps for backward
        work          gradients, packed weights, partial sums

    Activations and work are those of the program that a step of training runs, laid out without taking the
    memory. Data sets, checkpoints and plots come on top.
    """

    program: int
    parameters: int
    activations: int
    work: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.program + self.parameters + self.activations + self.work

    def __str__(self) -> str:
        parts = ", ".join(
            f"{phrase(name)} {value / 2**20:.0f}" for name, value in vars(self).items() if value >= 1 << 19
        )
        return fill(
            "training needs about {size} MiB ({parts})", size=f"{self.total / 2**20:.0f}", parts=parts
        )


def training_memory(network: Any, batch_size: int) -> Any:
    """Return the Memory that training ``network`` (built) with SGD and momentum needs at its peak."""
    sizes = [p.size * p.dtype.itemsize for p in network.parameters()]
    engine = backend.engine(network.body, "numba")
    return Memory(PROGRAM, 3 * sum(sizes), *engine.memory((batch_size, *network.input_shape)))


@dataclass(frozen=True)
class SummaryRow:
    """One line of the table; macs and activation_bytes are those of a whole batch."""

    name: str
    type: str
    output_shape: tuple[int, ...]
    parameters: int
    macs: int
    activation_bytes: int
    leaf: bool
    frozen: int = 0  # of the parameters, those that are not trained now


@dataclass(frozen=True)
class Summary:
    """The layers of a network in numbers; ``str()`` gives a table."""

    input_shape: tuple[int, ...]
    batch_size: int
    rows: list[SummaryRow]
    memory: Memory

    def _total(self, what: str) -> int:
        """Add up the leaves; a container's row repeats what its layers have."""
        return sum(getattr(row, what) for row in self.rows if row.leaf)

    @property
    def parameters(self) -> int:
        """Number of values in all parameters."""
        return self._total("parameters")

    @property
    def frozen(self) -> int:
        """Number of those that are not trained now."""
        return self._total("frozen")

    @property
    def macs(self) -> int:
        """Multiply-adds of one forward pass of the batch."""
        return self._total("macs")

    @property
    def activation_bytes(self) -> int:
        """Bytes of all outputs of the batch, which training keeps for backward."""
        return sum(row.activation_bytes for row in self.rows)

    _HEADER = ("layer", "type", "output", "parameters", "MACs", "activations")

    def _repr_html_(self) -> str:
        title, body, total = self._table()
        return html_table(self._HEADER, [*body, total], title) + f"<p>{escape(str(self.memory))}</p>"

    def __str__(self) -> str:
        title, body, total = self._table()
        header = tuple(map(phrase, self._HEADER))
        widths = [max(width(line[i]) for line in (header, *body, total)) for i in range(len(header))]

        def line(cells: Sequence[str]) -> str:
            left = [pad(cell, columns) for cell, columns in zip(cells[:3], widths[:3], strict=True)]
            right = [
                " " * (columns - width(cell)) + cell
                for cell, columns in zip(cells[3:], widths[3:], strict=True)
            ]
            return "  ".join(left + right).rstrip()

        rule = "-" * width(line(header))
        return "\n".join([title, line(header), rule, *map(line, body), rule, line(total), str(self.memory)])

    def _table(self) -> Any:
        """Return (title, rows, last row), all cells as text."""
        body = [
            (
                row.name,
                row.type,
                " x ".join(map(str, row.output_shape)),
                _parameters(row),
                f"{row.macs:,}",
                _bytes(row.activation_bytes) if row.activation_bytes else "",
            )
            for row in self.rows
        ]
        total = (phrase("total"), "", "", _parameters(self), f"{self.macs:,}", _bytes(self.activation_bytes))
        shape = " x ".join(map(str, self.input_shape))
        title = fill("input {shape}, batch of {n}", shape=shape, n=self.batch_size)
        return title, body, total


def _parameters(row: Any) -> str:
    if not row.frozen:
        return f"{row.parameters:,}"
    return fill("{n} frozen of {all}", n=f"{row.frozen:,}", all=f"{row.parameters:,}")


def _bytes(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.1f} {unit}" if unit != "B" else f"{count} B"
        count /= 1024
    return f"{count:.1f} GiB"
