"""The table of predictions as bytes: a block of rows, and the whole file from its blocks; CSV or Parquet."""

import csv
import io

import numpy as np

from cnn.errors import ConfigError, did_you_mean
from cnn.interop.extras import require
from cnn.targets import KINDS
from cnn.terminal import printable_name


class Table:
    """Columns of a table of predictions.

        image, class, probability, p_<class> for each class, remarks, error

    With ``top`` the classes are the likeliest: image, class, probability, class_2, probability_2 ...
    Of other ``targets`` (`cnn.targets`), in place of those of the classes: a column of each of the numbers;
    labels, p_<label>; share_<class>, the shares of the pixels of a mask.
    """

    suffix, part_suffix = None, None

    def __init__(self, classes, top=None, targets="classes"):
        self.classes, self.top = list(classes), top and min(top, len(classes))
        self.kind = KINDS[targets]

    @property
    def columns(self):
        """Names of the columns."""
        return ["image", *self.numeric, "remarks", "error"]

    @property
    def numeric(self):
        """{name: whether it holds numbers} of the columns that depend on the answer."""
        if self.kind.name == "numbers":
            return dict.fromkeys(self.classes, True)
        if self.kind.name == "labels":
            return {"labels": False} | {f"p_{name}": True for name in self.classes}
        if self.kind.name == "masks":
            return {f"share_{name}": True for name in self.classes}
        first = {"class": False, "probability": True}
        if not self.top:
            return first | {f"p_{name}": True for name in self.classes}
        more = range(2, self.top + 1)
        return first | {f"{what}_{k}": number for k in more for what, number in first.items()}

    def row(self, prediction):
        """Return the values of the columns; None where there is none."""
        p, last = prediction.answer, [" ".join(prediction.remarks), prediction.error or ""]
        last[1] = printable_name(last[1])
        if p is None:
            values = [None] * len(self.numeric)
        elif self.kind.name != "classes":
            values = list(self.kind.by_name(p, self.classes).values())
            if self.kind.name == "labels":
                values.insert(0, ";".join(self.kind.given(p, self.classes)))
        else:
            order = np.argsort(-p, kind="stable")[: self.top or 1]
            values = [v for k in order for v in (self.classes[k], float(p[k]))]
            values += [] if self.top else p.tolist()
        return [printable_name(prediction.image), *values, *last]


class Csv(Table):
    """Comma-separated values, numbers of six digits, an empty field where there is no value."""

    suffix = ".csv"

    def block(self, predictions):
        """Return the rows as bytes, without the header."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        for prediction in predictions:
            writer.writerow([f"{v:.6g}" if isinstance(v, float) else v for v in self.row(prediction)])
        return text.getvalue().encode()

    def whole(self, paths):
        """Yield the bytes of the file whose blocks are in ``paths``."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(self.columns)
        yield text.getvalue().encode()
        for path in paths:
            yield path.read_bytes()


class Parquet(Table):
    """Parquet: probabilities are float32, what has no value is null; needs pyarrow."""

    suffix = ".parquet"

    def __init__(self, classes, top=None, targets="classes"):
        super().__init__(classes, top, targets)
        self._pa, self._parquet = (
            require(name, "parquet", "a Parquet file") for name in ("pyarrow", "pyarrow.parquet")
        )
        number, text = self._pa.float32(), self._pa.string()
        kinds = [number if self.numeric.get(name) else text for name in self.columns]
        self._schema = self._pa.schema(list(zip(self.columns, kinds, strict=True)))

    def block(self, predictions):
        """Return the rows as the bytes of a Parquet file."""
        columns = zip(*map(self.row, predictions), strict=True)
        arrays = [self._pa.array(v, f.type) for v, f in zip(columns, self._schema, strict=True)]
        file = io.BytesIO()
        self._parquet.write_table(self._pa.Table.from_arrays(arrays, schema=self._schema), file)
        return file.getvalue()

    def whole(self, paths):
        """Yield the bytes of the file whose blocks are in ``paths``, one row group a block."""
        drain = _Drain()
        with self._parquet.ParquetWriter(self._pa.PythonFile(drain, mode="w"), self._schema) as writer:
            for path in paths:
                writer.write_table(self._parquet.read_table(self._pa.BufferReader(path.read_bytes())))
                yield drain.take()
        yield drain.take()


class _Drain:
    """A file that holds what was written until it is taken."""

    closed = False

    def __init__(self):
        self._parts, self._place = [], 0

    def write(self, data):
        self._parts.append(bytes(data))
        self._place += len(self._parts[-1])
        return len(self._parts[-1])

    def tell(self):
        return self._place

    def flush(self):
        pass

    def close(self):
        pass

    def take(self):
        taken = b"".join(self._parts)
        self._parts.clear()
        return taken


FORMATS = {kind.suffix: kind for kind in (Csv, Parquet)}


def table_for(out, classes, top=None, targets="classes"):
    """Return the Table that the name of ``out`` asks for; ConfigError, or MissingExtra without pyarrow."""
    if out.suffix not in FORMATS:
        known = " or ".join(FORMATS)
        raise ConfigError(
            f"--out {out}: expected a name that ends in {known}.{did_you_mean(out.suffix, FORMATS)}"
        )
    return FORMATS[out.suffix](classes, top, targets)
