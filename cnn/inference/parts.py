"""A long prediction that may be killed at any moment: blocks of rows in a folder until all are there.

Block i holds the rows of the paths i * BLOCK to (i + 1) * BLOCK - 1. It is a file written whole or not at
all, whose name says of which paths it is, so that each of any number of processes sees what is left to do.
"""

import hashlib
import itertools
import json
import re
from contextlib import suppress
from pathlib import Path

from cnn.errors import CheckpointError, ConfigError
from cnn.files import locked, remove_temporaries, replace_atomically, write_atomically

BLOCK = 1024  # rows
_PLAN = "plan.json"
_NAME = re.compile(r"(\d+)-([0-9a-f]{16})-(\d+)-(\d+)")


class Parts:
    """The blocks of the table ``out`` in the folder ``<out>.parts``; in the end ``out`` and ``<out>.json``.

    Parameters
    ----------
    out : Path
    table : `cnn.inference.tables.Table`
    settings : dict
        All that the rows depend on besides the files, as JSON holds it.
    """

    def __init__(self, out, table, settings):
        self.out, self.table = Path(out), table
        self.folder = self.out.with_name(self.out.name + ".parts")
        self.about = self.out.with_name(self.out.name + ".json")
        self.settings = json.loads(json.dumps({**settings, "block": BLOCK, "columns": table.columns}))
        self._known, self._digests = {}, []  # blocks of before; what the asked-for ones are made of

    def begin(self):
        """Make the folder, or go on in it; return False where the table is finished.

        Raises ConfigError where ``out`` or the folder belongs to other settings.
        """
        if self._is_finished():
            return False
        if self.out.exists() and not self._plan_path.exists():
            self._check(self.about, self.out)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not self.out.exists():
                self.about.unlink(missing_ok=True)
        except OSError as error:
            raise ConfigError(f"--out {self.out}: cannot be written: {error.strerror or error}") from error
        if not self._plan_path.exists():
            write_atomically(self._plan_path, json.dumps(self.settings, indent=1).encode())
        self._check(self._plan_path, self.folder)
        self._known = self._list()
        if self._is_finished():  # meanwhile, by another process
            self._remove()
            return False
        return True

    def is_there(self, number, paths):
        """Whether the block of these paths, the next one in the order of the whole, is finished."""
        self._digests.append(_digest(paths))
        return (number, self._digests[-1]) in self._known

    def write(self, number, predictions):
        """Write the rows of a block whose paths ``is_there`` was asked about."""
        unread = sum(p.error is not None for p in predictions)
        name = f"{number:08}-{self._digests[number]}-{len(predictions)}-{unread}{self.table.suffix}"
        write_atomically(self.folder / name, self.table.block(predictions))

    def finish(self):
        """Put the table together where all blocks are there; return {"images", "unread"}, else None.

        All blocks must have been asked about. Also None where another process is putting it together. The
        folder is removed after the table and what it was made with are on the disk.
        """
        try:
            blocks = self._list()
        except FileNotFoundError:  # another process has put it together
            return self.finished()
        chosen = [blocks.get(key) for key in enumerate(self._digests)]
        if None in chosen:
            return None
        totals = None
        try:
            with locked(self.folder):
                if self._plan_path.exists():
                    totals = self._assemble(chosen)
        except ConfigError:  # another process has the lock
            return None
        except OSError as error:
            if self._plan_path.exists():
                problem = error.strerror or error
                raise CheckpointError(f"{self.out}: cannot be written: {problem}") from error
        return totals or self.finished()

    def finished(self):
        """Return {"images", "unread"} of the finished table; ConfigError where it is of other paths."""
        about = _read(self.about)
        if self._digests and about.get("paths") != _digest(self._digests):
            raise ConfigError(
                f"{self.out}: holds the predictions of other images; delete it, or choose another --out"
            )
        return {key: about.get(key) for key in ("images", "unread")}

    def _assemble(self, chosen):
        replace_atomically(self.out, self.table.whole(block["path"] for block in chosen))
        totals = {key: sum(block[source] for block in chosen) for key, source in _TOTALS.items()}
        about = {**self.settings, **totals, "paths": _digest(self._digests)}
        write_atomically(self.about, json.dumps(about, indent=1).encode())
        self._remove()
        return totals

    def _remove(self):
        """Delete what this class has written into the folder, and the folder where that was all."""
        remove_temporaries(self.folder)
        with suppress(OSError):
            for path in [self._plan_path, *(block["path"] for block in self._list().values())]:
                path.unlink(missing_ok=True)
            (self.folder / ".lock").unlink(missing_ok=True)
            self.folder.rmdir()

    def _is_finished(self):
        known = _read(self.about) if self.out.exists() else {}
        return bool(known) and all(known.get(key) == value for key, value in self.settings.items())

    @property
    def _plan_path(self):
        return self.folder / _PLAN

    def _list(self):
        """Return {(number, digest of the paths): what else its name says} of the finished blocks.

        Blocks of other paths, from before files came or went, belong to no table and go with the folder.
        """
        found = {}
        for path in self.folder.iterdir():
            match = _NAME.fullmatch(path.stem)
            if match and path.suffix == self.table.suffix:
                number, digest, rows, unread = match.groups()
                found[int(number), digest] = {"path": path, "rows": int(rows), "unread": int(unread)}
        return found

    def _check(self, path, place):
        """Raise ConfigError unless the settings in a file are those asked for."""
        known = _read(path)
        for key, value in self.settings.items():
            if known.get(key) != value:
                what = f"began with another {key}" if known else "exists, and was not made by this command"
                raise ConfigError(f"{place}: {what}; delete it, or choose another --out")


_TOTALS = {"images": "rows", "unread": "unread"}


def blocks(paths):
    """Yield (number, list of BLOCK paths) of a stream of paths; the last list may be shorter."""
    paths = iter(paths)
    for number in itertools.count():
        chosen = list(itertools.islice(paths, BLOCK))
        if not chosen:
            return
        yield number, chosen


def _digest(names):
    return hashlib.sha256("\0".join(names).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _read(path):
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
