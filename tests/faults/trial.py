"""One trial, and what it takes to try things: command lines in this process, in a child, in a shell."""

import io
import os
import random
import signal
import sys
import tempfile
import threading
import time
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NOTICED, HARMLESS = "noticed", "harmless"
DOCUMENTED = {0, 2, 3, 4, 5, 129, 130, 141, 143}
_MOST_LINES, _MOST_LENGTH = 3, 400
_PASSING = ("not used (", " is not cached (", " cannot be written to; cached in ")  # warnings, not errors


class Fault(Exception):
    """What must not happen did; the message says what."""


@dataclass(frozen=True)
class Trial:
    """``run()`` returns NOTICED or HARMLESS, or counts of both, or raises Fault; ``what`` tells it apart."""

    kind: str
    what: str
    run: Any


@dataclass(frozen=True)
class Answer:
    """What a command line did."""

    code: int
    out: str
    err: str
    memory: int = 0  # peak of a child, bytes

    def checked(self, codes=DOCUMENTED):
        """Return self; Fault for a traceback, an undocumented exit code or an error of many lines."""
        text = self.out + self.err
        shown = f"exit {self.code}: {self.err[-1500:]}"
        if "Traceback" in text or "unforeseen" in text or self.code not in DOCUMENTED:
            raise Fault(f"a bug of cnn on the screen: {shown}")
        if self.code not in codes:
            raise Fault(f"expected exit {' or '.join(map(str, sorted(codes)))}: {shown}")
        lines = [line for line in self.err.splitlines() if not any(word in line for word in _PASSING)]
        errors = self.code in (2, 3, 4, 5)
        if errors and not (1 <= len(lines) <= _MOST_LINES and all(len(x) <= _MOST_LENGTH for x in lines)):
            raise Fault(f"expected one to three lines: {shown}")
        return self


def command(*argv):
    """Run a command line in this process."""
    from cnn.cli import main

    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([str(a) for a in argv])
    return Answer(code, out.getvalue(), err.getvalue())


class Child:
    """A fork of this process that runs ``function()``; its streams are read meanwhile.

    The worker that forks has imported all and computed nothing, so a child starts at once, as a new process
    would after a second.
    """

    def __init__(self, function, prepare=None):
        pipes = [os.pipe(), os.pipe()]
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            code = 70
            try:
                os.setpgid(0, 0)
                for number, (_, write) in enumerate(pipes, 1):
                    os.dup2(write, number)
                for pipe in pipes:
                    os.close(pipe[0]), os.close(pipe[1])
                sys.stdin = open(os.devnull)  # noqa: SIM115
                sys.stdout, sys.stderr = (os.fdopen(n, "w", encoding="utf-8", closefd=False) for n in (1, 2))
                if prepare is not None:
                    prepare()
                code = function()
            except BaseException:
                import traceback

                with suppress(Exception):
                    traceback.print_exc()
            finally:
                for stream in (sys.stdout, sys.stderr):
                    with suppress(Exception):
                        stream.flush()
                os._exit(code or 0)
        self._texts, self._readers = ["", ""], []
        for number, (read, write) in enumerate(pipes):
            os.close(write)
            self._readers.append(threading.Thread(target=self._read, args=(number, read), daemon=True))
            self._readers[-1].start()

    def _read(self, number, descriptor):
        with os.fdopen(descriptor, encoding="utf-8", errors="backslashreplace") as stream:
            for line in stream:
                self._texts[number] += line

    def send(self, signum):
        """Send a signal to the child; whether it still was there."""
        try:
            os.kill(self.pid, signum)
        except ProcessLookupError:
            return False
        return True

    def printed(self):
        """What stdout holds so far."""
        return self._texts[0]

    def wait(self, seconds=20):
        """Return the Answer; Fault, after killing it, when it takes longer. Code -9: killed by SIGKILL."""
        deadline = time.monotonic() + seconds
        while True:
            pid, status, usage = os.wait4(self.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() > deadline:
                with suppress(ProcessLookupError):
                    os.killpg(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                raise Fault(f"a hang: no end after {seconds} s; {''.join(self._texts)[-500:]}")
            time.sleep(0.002)
        for reader in self._readers:
            reader.join(5)
        return Answer(os.waitstatus_to_exitcode(status), *self._texts, usage.ru_maxrss * 1024)


def child(*argv, prepare=None):
    """Start a command line in a fork of this process."""
    from cnn.cli import main

    return Child(lambda: main([str(a) for a in argv]), prepare)


def shell(line, seconds=60, **environment):
    """Run a line of a shell, where ``cnn`` is the command; as another user would see it."""
    import subprocess

    function = f'cnn() {{ "{sys.executable}" -m cnn "$@"; }}\n'
    given = {name: value for name, value in (os.environ | environment).items() if value is not None}
    process = subprocess.Popen(
        ["bash", "-o", "pipefail", "-c", function + line],
        env=given,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise Fault(f"a hang: no end after {seconds} s of {line}") from None
    texts = (text.decode("utf-8", "backslashreplace") for text in (out, err))
    return Answer(process.returncode, *texts)


def temporaries(folder="."):
    """Return the hidden files that a writer left below a folder."""
    return [str(p) for p in Path(folder).rglob(".*") if p.is_file() and p.name != ".gitignore"]


def contents(folder):
    """Return {name: bytes} of all files below a folder, but for data caches."""
    files = (p for p in sorted(Path(folder).rglob("*")) if p.is_file() and "cnn-cache" not in p.parts)
    return {str(p): p.read_bytes() for p in files}


def damaged(whole, rng):
    """Return (what was done, bytes): one bit, one byte, or a few bytes of ``whole`` changed."""
    place = rng.randrange(len(whole)) if rng.random() < 0.7 else rng.randrange(min(len(whole), 2000))
    spoilt = bytearray(whole)
    if rng.random() < 0.5:
        spoilt[place] ^= 1 << rng.randrange(8)
        return f"bit of byte {place}", bytes(spoilt)
    value = rng.choice([v for v in range(256) if v != spoilt[place]])
    spoilt[place] = value
    return f"byte {place} to {value}", bytes(spoilt)


def cut(whole, rng):
    """Return (what was done, bytes): ``whole`` without its end, rarely with bytes added."""
    if rng.random() < 0.1:
        extra = rng.randbytes(rng.randrange(1, 5000))
        return f"{len(extra)} bytes added", whole + extra
    length = rng.randrange(len(whole))
    return f"cut to {length} of {len(whole)} bytes", whole[:length]


def scratch():
    """Make a temporary folder the working folder; return its path."""
    folder = Path(tempfile.mkdtemp(prefix="cnn-faults-"))
    os.chdir(folder)
    os.environ["XDG_CACHE_HOME"] = str(folder / "user")
    return folder


def generator(seed, name):
    """Return the random numbers of one campaign."""
    return random.Random(f"{seed} {name}")
