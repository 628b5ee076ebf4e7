"""Image files whose labels stand in a CSV file: ``file,label``, or Hugging Face's metadata.csv.

What the columns are is told by ``targets`` (`cnn.targets`): "classes" has one column of names; "numbers" has
columns of numbers; "labels" has a column with all names of an image ("cat dog", or "cat;hot dog"), or a
column of 0 and 1 for each label. ``columns`` names those to take; left out, they are all but that of the
files and that of the parts.
"""

import csv
import math
import re
from pathlib import Path
from typing import NamedTuple

from cnn.data.listing import PARTS, Listing, table_files
from cnn.errors import DataError, did_you_mean
from cnn.terminal import printable_name

_FILE = ("file_name", "file", "filename", "image", "path", "image_path", "filepath", "image_id")
_LABEL = ("label", "class", "category", "target", "y", "species", "breed")
_PART = ("split", "part", "set", "subset", "fold")
_TAGS = ("labels", "tags", "classes", "categories", *_LABEL)
_BOOL = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1, "no": 0, "yes": 1}


class _Row(NamedTuple):
    """A line of a table: the part that it says or None, the path, the texts of the chosen columns."""

    part: str | None
    file: str
    texts: list
    where: str  # "labels.csv: line 7"


def folder_with_tables(root, targets="classes", columns=None):
    """Return the Listing of a folder whose labels stand in metadata.csv files."""
    names, rows = None, []
    for part, path in table_files(root).items():
        found, of_part = _rows(path, targets, columns)
        if targets != "classes" and found != (names or found):
            raise DataError(f"{path}: expected the columns {', '.join(names)}, found {', '.join(found)}")
        names = names or found
        rows += [row._replace(part=row.part or part) for row in of_part]
    return _listed(Listing(root), names, rows, root, targets)


def from_csv(path, targets="classes", columns=None):
    """Return the Listing of a CSV file: a column of files, relative to its folder, and those of labels.

    The columns are known by their names (``file`` or ``image`` or ``path`` …; ``label`` or ``class`` …); a
    column ``split`` may say train, val or test. Two columns need no header where the labels are classes.
    Raises DataError naming the line: no such column, a file that is not there, an empty label.
    """
    names, rows = _rows(path, targets, columns)
    rows = [row._replace(part=row.part or "train") for row in rows]
    return _listed(Listing(path.parent), names, rows, path, targets)


def _listed(listing, names, rows, source, targets):
    names, labels = _READ[targets](names, rows, source)
    for row, label in zip(rows, labels, strict=True):
        listing.add(row.part, [row.file], [label])
    if "train" not in listing.files:
        raise DataError(f"{source}: expected images of the part train, found none")
    listing.classes = [printable_name(name) for name in names]
    return listing


def _classes(_, rows, source):
    """Return (names, index of each row's class)."""
    names = sorted({row.texts[0] for row in rows})
    if all(name.isdecimal() for name in names):
        names.sort(key=int)
    if len(names) < 2:
        raise DataError(f"{source}: expected labels of at least two classes, found {len(names)}")
    if 2 * len(names) > len(rows) and sum(map(_is_fraction, names)) > len(names) / 2:
        found = f"{len(names):,} different numbers, such as {names[-1]}, for {len(rows):,} images"
        raise DataError(
            f'{source}: expected names of classes, found {found}; did you mean data.targets = "numbers"?'
        )
    return names, [names.index(row.texts[0]) for row in rows]


def _is_fraction(text):
    try:
        return float(text) % 1 != 0
    except ValueError:
        return False


def _numbers(names, rows, source):
    """Return (names of the columns, a tuple of numbers of each row)."""

    def number(text, name, where):
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise DataError(
                f"{where}: {name}: expected a finite number, found {text!r}; data.columns = [...] names the "
                "columns to take"
            )
        return value

    return names, [
        tuple(number(text, name, row.where) for text, name in zip(row.texts, names, strict=True))
        for row in rows
    ]


def _labels(names, rows, source):
    """Return (names of the labels, a tuple of 0 and 1 of each row)."""
    if len(names) == 1 and any(row.texts[0].lower() not in _BOOL for row in rows):
        separator = r"[;|,]" if any(re.search(r"[;|,]", row.texts[0]) for row in rows) else r"\s+"
        parts = [{t.strip() for t in re.split(separator, row.texts[0])} - {""} for row in rows]
        names = sorted(set().union(*parts))
        return names, [tuple(int(name in of_row) for name in names) for of_row in parts]

    def flag(text, name, where):
        if text.lower() not in _BOOL:
            raise DataError(f"{where}: {name}: expected 0 or 1, found {text!r}")
        return _BOOL[text.lower()]

    return names, [
        tuple(flag(text, name, row.where) for text, name in zip(row.texts, names, strict=True))
        for row in rows
    ]


_READ = {"classes": _classes, "numbers": _numbers, "labels": _labels}


def _rows(path, targets, columns):
    """Return (names of the chosen columns, [_Row]) of a CSV file."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = [row for row in csv.reader(file, dialect=_dialect(file)) if any(row)]
    except OSError as error:
        raise DataError(f"{path}: expected a CSV file, found none ({error.strerror or error})") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: expected a CSV file in UTF-8, found another ({error})") from error
    if not rows:
        raise DataError(f"{path}: expected a header and a line for each image, found an empty file")
    file_column, label_columns, part_column, first = _columns(path, rows, targets, columns)
    found, missing = [], []
    for number, row in enumerate(rows[first:], first + 1):
        where = f"{path}: line {number}"
        if len(row) <= max(file_column, *label_columns):
            raise DataError(f"{where}: expected {len(rows[0])} values, found {len(row)}")
        file, texts = path.parent / row[file_column].strip(), [row[k].strip() for k in label_columns]
        if not texts[0] and targets == "classes":
            raise DataError(f"{where}: expected a label, found none")
        if not file.is_file():
            missing.append((where, file))
        part = row[part_column].strip() if part_column is not None and len(row) > part_column else None
        found.append(_Row(_part(path, number, part), str(file), texts, where))
    if missing:
        more = f" ({len(missing):,} such lines)" if len(missing) > 1 else ""
        raise DataError(f"{missing[0][0]}: found no file {missing[0][1]}{more}")
    return [rows[0][k].strip() for k in label_columns], found


def _dialect(file):
    sample = file.read(4096)
    file.seek(0)
    try:
        return csv.Sniffer().sniff(sample, delimiters=",;\t")
    except csv.Error:
        return csv.excel


def _columns(path, rows, targets, columns):
    """Return (column of files, columns of labels, column of parts or None, first row of data)."""
    header = [name.strip().lower() for name in rows[0]]
    file, label, part = (
        next((header.index(name) for name in names if name in header), None)
        for names in (_FILE, _LABEL, _PART)
    )
    if targets != "classes" or columns:
        return file, _chosen(path, rows[0], file, part, targets, columns), part, 1
    if file is None and label is None and len(header) == 2 and (path.parent / rows[0][0].strip()).is_file():
        return 0, [1], None, 0
    if file is not None and label is None and len(header) == 2:
        label = 1 - file  # Hugging Face lets the other column have any name
    for column, names, what in ((file, _FILE, "files"), (label, _LABEL, "labels")):
        if column is None:
            hint = next((found for name in header if (found := did_you_mean(name, names))), "")
            expected, found = ", ".join(names[:4]), ", ".join(header)
            raise DataError(f"{path}: expected a column of {what} ({expected}), found {found}.{hint}")
    return file, [label], part, 1


def _chosen(path, header, file, part, targets, columns):
    """Return the columns of labels: those that ``columns`` names, or all that are left."""
    names = [name.strip() for name in header]
    if file is None:
        found = ", ".join(names)
        raise DataError(f"{path}: expected a column of files ({', '.join(_FILE[:4])}), found {found}")
    if columns is not None:
        if targets == "classes" and len(columns) != 1:
            raise DataError(f"{path}: expected one column of classes, found {', '.join(columns)}")
        for name in columns:
            if name not in names:
                hint = did_you_mean(name, names)
                raise DataError(f"{path}: data.columns: found no column {name} in {', '.join(names)}.{hint}")
        return [names.index(name) for name in columns]
    left = [k for k in range(len(names)) if k not in (file, part)]
    tags = [k for k in left if names[k].lower() in _TAGS] if targets == "labels" else []
    if not left:
        raise DataError(f"{path}: expected a column of {targets} beside that of the files, found none")
    return tags[:1] or left


def _part(path, number, text):
    if not text:
        return None
    for part, names in PARTS.items():
        if text.lower() in names:
            return part
    known = [name for names in PARTS.values() for name in names]
    raise DataError(
        f"{path}: line {number}: expected a split such as train, val or test, found {text}."
        f"{did_you_mean(text, known)}"
    )


def is_table(root):
    """Whether a path is that of a table of files and labels."""
    return Path(root).suffix.lower() in (".csv", ".tsv")
