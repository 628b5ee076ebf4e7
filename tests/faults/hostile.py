"""Files that somebody made to do harm: checkpoints sound in themselves, pictures, entries of folders."""

import hashlib
import json
import os
import shutil
import struct
from itertools import cycle
from pathlib import Path

from faults import place
from faults.mutate import bytes_mutated, mutated
from faults.trial import HARMLESS, NOTICED, Fault, Trial, command

_START = b'{"__metadata__":{"sha256":"'


def sealed(header, arrays):
    """Return the bytes of a checkpoint with this header (a dict) and arrays (bytes), its checksum right."""
    header = {"__metadata__": {"sha256": "0" * 64, **header.pop("__metadata__", {})}, **header}
    raw = json.dumps(header, separators=(",", ":")).encode("utf-8", "surrogatepass")
    before = len(raw).to_bytes(8, "little") + raw
    digest = hashlib.sha256(before).hexdigest().encode()
    return before.replace(_START + b"0" * 64, _START + digest, 1) + arrays


def unsealed(content):
    """Return (header, arrays) of a checkpoint's bytes."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    del header["__metadata__"]["sha256"]
    return header, content[8 + length :]


def forged(content, rng):
    """Return (what was done, bytes): a checkpoint with another header, under a right checksum."""
    header, arrays = unsealed(content)
    if rng.random() < 0.25:  # the entries of the tensors
        kept = header.pop("__metadata__")
        how, header = mutated(header, rng, rng.choice((1, 2)))
        header["__metadata__"] = kept
    else:
        own = json.loads(header["__metadata__"]["cnn"])
        part = rng.choice(("meta", "meta", "meta", "all"))
        if part == "meta" and isinstance(own["meta"], dict):
            how, own["meta"] = mutated(own["meta"], rng, rng.choice((1, 1, 2)))
        else:
            how, own = mutated(own, rng)
        header["__metadata__"]["cnn"] = json.dumps(own)
    return how, sealed(header, arrays)


def checkpoints(rng):
    """Forged headers and progress records, for every command that reads a checkpoint."""
    place.write()
    run = place.trained("run")
    snapshot = max((run / "snapshots").iterdir())
    out = ("--out", "page.html")
    readers = cycle(
        [
            (run / "best.safetensors", ("evaluate", run)),
            (run / "last.safetensors", ("train", "--resume", "--run", run)),
            (run / "best.safetensors", ("predict", run, place.IMAGE)),
            (run / "best.safetensors", ("explain", run, "--image", "0", *out)),
            (run / "last.safetensors", ("train", "--resume", "--run", run, "--set", "train.epochs=3")),
            (snapshot, ("explain", run, "--image", "0", "--history", *out)),
            (run / "best.safetensors", ("export", run, "--format", "c", "--out", "net.c")),
            (run / "best.safetensors", ("train", "--resume", "--run", run, "--set", "train.epochs=3")),
        ]
    )
    shutil.copytree(run, "whole")
    while True:
        path, argv = next(readers)
        how, content = forged(path.read_bytes(), rng)
        yield Trial(f"{argv[0]}", f"{path}: {how}", lambda p=path, c=content, a=argv: _read(p, c, a))


def _read(path, content, argv):
    path.write_bytes(content)
    try:
        answer = command(*argv).checked({0, 2, 3, 4, 5})
    finally:
        shutil.rmtree("run")
        shutil.copytree("whole", "run")
    return NOTICED if answer.code else HARMLESS


def pictures(rng):
    """Pictures of every format with bytes changed, lost and put in; now and then by a command."""
    place.write()
    place.trained("run")
    paths = place.pictures(rng, "pictures")
    while True:
        path = rng.choice(paths)
        content = bytes_mutated(path.read_bytes(), rng)
        by_command = rng.random() < 0.05
        yield Trial(
            path.name, content[:4000].hex(), lambda n=path.name, c=content, b=by_command: opened(n, c, b)
        )


def opened(name, content, by_command=False):
    """Write a picture and read it: it has pixels, or an error names the file."""
    from cnn.data import read_image
    from cnn.errors import DataError

    path = Path("hostile-" + name)
    path.write_bytes(content)
    if by_command:
        answer = command("predict", "run", path).checked({0, 3})
        return NOTICED if answer.code else HARMLESS
    try:
        pixels = read_image(path, mode="RGB")
    except DataError as error:
        if str(path) not in str(error) or "\n" in str(error):
            raise Fault(f"not one line with the file's name: {error}") from error
        return NOTICED
    if pixels.ndim != 3 or pixels.shape[0] != 3:
        raise Fault(f"pixels of shape {pixels.shape}")
    return HARMLESS


def entries(rng):
    """What may lie among the pictures of a folder; every command agrees on what is read."""
    place.write()
    place.trained("run")
    shutil.copytree("images", "whole")
    while True:
        for name, (make, codes) in rng.sample(list(_ENTRIES.items()), len(_ENTRIES)):
            yield Trial(name, name, lambda m=make, c=codes: _beside_pictures(m, c))


def _beside_pictures(make, codes):
    shutil.rmtree("images")
    shutil.copytree("whole", "images")
    place.forget()
    folder = Path("images/train/corner")
    made = make(folder)
    found = {}
    for argv in (
        ("train", place.CONFIG, "--dry-run"),
        ("summary", place.CONFIG),
        ("evaluate", "run"),
        ("predict", "run", made or place.IMAGE),
    ):
        answer = command(*argv).checked(codes | {0, 3})
        if "\x1b" in answer.out + answer.err or "\u202e" in answer.out + answer.err:
            raise Fault(f"a name reaches the terminal as it is: {answer.out + answer.err!r}")
        found[argv[0]] = answer.code
    if found["train"] not in codes:
        raise Fault(f"expected {codes} of train, found {found['train']}")
    if codes == {0} and found["summary"] != 0:
        raise Fault("train passes over it, summary does not")
    return NOTICED if found["train"] else HARMLESS


def _entry(function, name="0-entry.png"):
    def make(folder):
        function(folder / name)
        return folder / name

    return make


def _bomb(path):
    header = struct.pack(">IIBBBBB", 13_000, 13_000, 8, 0, 0, 0, 0)
    import zlib

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    body = zlib.compress(bytes(13_001 * 8))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )


def _renamed_class(name):
    def make(folder):
        for part in ("train", "test"):
            os.rename(f"images/{part}/corner", os.fsencode(f"images/{part}/") + name)

    return make


def _chain(path):
    path.symlink_to(path.name)


_EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(x) run\n%%EOF\n"
_ENTRIES = {
    "pipe": (_entry(os.mkfifo), {0}),
    "device": (_entry(lambda p: p.symlink_to("/dev/zero")), {0}),
    "folder": (_entry(os.mkdir), {0}),
    "link to nowhere": (_entry(lambda p: p.symlink_to("/gone/x.png")), {3}),
    "link to itself": (_entry(_chain), {3}),
    "AppleDouble": (
        _entry(lambda p: p.write_bytes(bytes.fromhex("0005160700020000") + bytes(90)), "._0.png"),
        {0},
    ),
    "hidden thumbnail": (_entry(lambda p: p.write_bytes(b"x"), ".thumb.png"), {0}),
    "EPS": (_entry(lambda p: p.write_bytes(_EPS)), {3}),
    "bomb": (_entry(_bomb), {3}),
    "empty": (_entry(lambda p: p.write_bytes(b"")), {3}),
    "text": (_entry(lambda p: p.write_text("no picture")), {3}),
    "escape codes": (_entry(lambda p: p.write_bytes(b"x"), "0\x1b[2J\u202egnp.png"), {3}),
    "name not UTF-8": (lambda f: Path(os.fsdecode(os.fsencode(f) + b"/0\xe9.png")).write_bytes(b"x"), {3}),
    "class not UTF-8": (_renamed_class(b"caf\xe9"), {0}),
    "class of escape codes": (_renamed_class(b"\x1b[31mred"), {0}),
}
