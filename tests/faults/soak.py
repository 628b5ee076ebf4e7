"""The same for a long time: memory, open files, threads and the size of files stay as they are."""

import os
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

from faults import place
from faults.trial import HARMLESS, Fault, Trial, command

_GROWTH = 12_000_000  # bytes, after a first round


def soak(rng):
    """Commands again and again in one process, a long run, a server among bad clients."""
    place.write()
    place.trained("run")
    while True:
        for name, function in (("server", _server), ("commands", _commands), ("long run", _long_run)):
            yield Trial(name, name, lambda f=function: f(rng))


def _held():
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmRSS"].split()[0]) * 1024, len(os.listdir("/proc/self/fd")), int(status["Threads"])


def _commands(rng):
    lines = [
        ("evaluate", "run"),
        ("predict", "run", place.IMAGE),
        ("summary", place.CONFIG),
        ("train", place.CONFIG, "--dry-run"),
        ("explain", "run", "--image", "0", "--out", "p.html"),
        ("evaluate", "gone"),
        ("summary", place.CONFIG, "--set", "a=1"),
    ]

    def round_of_all(times):
        for _ in range(times):
            for argv in lines:
                command(*argv).checked({0, 2, 3, 4})

    round_of_all(3)
    before = _held()
    round_of_all(15)
    return _flat(before, _held())


def _long_run(rng):
    import shutil

    sets = place.settings("train.snapshots=0", "train.checkpoint_every=5")
    for path in ("long",):
        shutil.rmtree(path, ignore_errors=True)
    command("train", place.CONFIG, "--run", "long", "--set", "train.epochs=30", *sets).checked({0})
    before, size = _held(), Path("long/last.safetensors").stat().st_size
    command("train", "--resume", "--run", "long", "--set", "train.epochs=300").checked({0})
    grown = Path("long/last.safetensors").stat().st_size - size
    if grown > 60_000:
        raise Fault(f"the checkpoint grew by {grown} bytes in 270 epochs")
    return _flat(before, _held())


def _server(rng):
    from cnn.explain.serve import make_server

    with make_server(b"page", seconds=0.3) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        port = server.server_address[1]
        _clients(port, rng, 40)
        time.sleep(0.6)
        before = _held()
        _clients(port, rng, 200)
        time.sleep(0.8)
        after = _held()
        if not _asked(port, f"127.0.0.1:{port}").startswith(b"HTTP/1.0 200"):
            raise Fault("the server no longer answers")
        if not _asked(port, "evil.example").startswith(b"HTTP/1.0 403"):
            raise Fault("a foreign host is answered")
        server.shutdown()
        thread.join(5)
    return _flat(before, after)


def _clients(port, rng, number):
    for _ in range(number):
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 2) as client:
            kind = rng.randrange(4)
            if kind == 0:
                continue  # leaves without a word
            client.sendall(
                rng.choice((b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\0" * 99, b"GET", rng.randbytes(70_000)))
            )
            if kind == 2:
                client.shutdown(socket.SHUT_WR)
            if kind == 3:
                client.settimeout(0.01)
                client.recv(10)


def _asked(port, host):
    with socket.create_connection(("127.0.0.1", port), 5) as client:
        client.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        return client.recv(100)


def _flat(before, after):
    for name, most, one, other in zip(
        ("memory", "open files", "threads"), (_GROWTH, 0, 1), before, after, strict=True
    ):
        if other - one > most:
            raise Fault(f"{name} grew from {one} to {other}")
    return HARMLESS
