"""Image files whose labels stand in a CSV file: ``file,label``, or Hugging Face's metadata.csv."""

import csv
from pathlib import Path

from cnn.data.listing import PARTS, Listing, table_files
from cnn.errors import DataError, did_you_mean
from cnn.terminal import printable_name

_FILE = ("file_name", "file", "filename", "image", "path", "image_path", "filepath", "image_id")
_LABEL = ("label", "class", "category", "target", "y", "species", "breed")
_PART = ("split", "part", "set", "subset", "fold")


def folder_with_tables(root):
    """Return the Listing of a folder whose labels stand in metadata.csv files."""
    listing, rows = Listing(root), []
    for part, path in table_files(root).items():
        rows += [(row_part or part, file, label) for row_part, file, label in _rows(path)]
    return _listed(listing, rows, root)


def from_csv(path):
    """Return the Listing of a CSV file: a column of files, relative to its folder, and one of labels.

    The columns are known by their names (``file`` or ``image`` or ``path`` …; ``label`` or ``class`` …); a
    column ``split`` may say train, val or test. Two columns need no header.
    Raises DataError naming the line: no such column, a file that is not there, an empty label.
    """
    return _listed(Listing(path.parent), [(part or "train", *rest) for part, *rest in _rows(path)], path)


def _listed(listing, rows, source):
    names = sorted({label for _, _, label in rows})
    if all(name.isdecimal() for name in names):
        names.sort(key=int)
    if len(names) < 2:
        raise DataError(f"{source}: expected labels of at least two classes, found {len(names)}")
    for part, file, label in rows:
        listing.add(part, [file], [names.index(label)])
    if "train" not in listing.files:
        raise DataError(f"{source}: expected images of the part train, found none")
    listing.classes = [printable_name(name) for name in names]
    return listing


def _rows(path):
    """Return [(part or None, path of the file, label)] of a CSV file."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = [row for row in csv.reader(file, dialect=_dialect(file)) if any(row)]
    except OSError as error:
        raise DataError(f"{path}: expected a CSV file, found none ({error.strerror or error})") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: expected a CSV file in UTF-8, found another ({error})") from error
    if not rows:
        raise DataError(f"{path}: expected a header and a line for each image, found an empty file")
    columns = _columns(path, rows)
    file_column, label_column, part_column, first = columns
    found, missing = [], []
    for number, row in enumerate(rows[first:], first + 1):
        if len(row) <= max(file_column, label_column):
            raise DataError(f"{path}: line {number}: expected {len(rows[0])} values, found {len(row)}")
        file, label = path.parent / row[file_column].strip(), row[label_column].strip()
        if not label:
            raise DataError(f"{path}: line {number}: expected a label, found none")
        if not file.is_file():
            missing.append((number, file))
        part = row[part_column].strip() if part_column is not None and len(row) > part_column else None
        found.append((_part(path, number, part), str(file), label))
    if missing:
        more = f" ({len(missing):,} such lines)" if len(missing) > 1 else ""
        raise DataError(f"{path}: line {missing[0][0]}: found no file {missing[0][1]}{more}")
    return found


def _dialect(file):
    sample = file.read(4096)
    file.seek(0)
    try:
        return csv.Sniffer().sniff(sample, delimiters=",;\t")
    except csv.Error:
        return csv.excel


def _columns(path, rows):
    """Return (column of files, of labels, of parts or None, first row of data)."""
    header = [name.strip().lower() for name in rows[0]]
    file, label, part = (
        next((header.index(name) for name in names if name in header), None)
        for names in (_FILE, _LABEL, _PART)
    )
    if file is None and label is None and len(header) == 2 and (path.parent / rows[0][0].strip()).is_file():
        return 0, 1, None, 0
    if file is not None and label is None and len(header) == 2:
        label = 1 - file  # Hugging Face lets the other column have any name
    for column, names, what in ((file, _FILE, "files"), (label, _LABEL, "labels")):
        if column is None:
            hint = next((found for name in header if (found := did_you_mean(name, names))), "")
            expected, found = ", ".join(names[:4]), ", ".join(header)
            raise DataError(f"{path}: expected a column of {what} ({expected}), found {found}.{hint}")
    return file, label, part, 1


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
