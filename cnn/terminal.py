"""Where text goes out: every line that `cnn` prints, harmless to a terminal and spelled in its encoding."""

import os
import sys
import unicodedata
from contextlib import contextmanager, suppress

from cnn.errors import CnnError

# What turns the direction of the text around it: with these "gpj.exe" looks like "exe.jpg".
_BIDIRECTIONAL = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
_INVISIBLE = "\u061c\u200e\u200f\u2028\u2029\ufeff"


class ReaderLeft(CnnError):
    """Nobody reads what is printed any more, as after ``| head``; the exit code is 128 + SIGPIPE."""

    exit_code = 141


def printable(text):
    r"""Return text without what a terminal obeys: control characters and direction marks become \x1b.

    Lone surrogates, in which Python keeps the bytes of names that are not UTF-8, become those bytes: \xe9.
    Newlines and tabs stay.
    """
    if text.isascii() and text.replace("\n", "").replace("\t", "").isprintable():
        return text
    return "".join(c if c in "\n\t" else _escaped(c) for c in text)


def printable_name(name):
    """Return the name of a file or a class on one line; see `printable`.

    Names on the disk are UTF-8 in any locale: bytes that the locale could not read are read as that.
    """
    with suppress(UnicodeEncodeError):  # other lone surrogates
        name = name.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
    return printable(name).replace("\n", r"\n").replace("\t", r"\t")


_quiet = False


@contextmanager
def volume(quiet=False, verbose=False):
    """Inside of the block print the log's warnings, with ``verbose`` its lines of information as well.

    ``quiet``: no progress is to be printed.
    """
    import logging

    global _quiet
    handler = logging.Handler(logging.INFO if verbose else logging.WARNING)
    handler.emit = lambda record: say(f"cnn: {record.getMessage()}", error=True)
    logger, before = logging.getLogger("cnn"), _quiet
    level, _quiet = logger.level, quiet
    if verbose:
        logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        _quiet = before
        logger.setLevel(level)
        logger.removeHandler(handler)


def is_quiet():
    """Whether progress is not to be printed."""
    return _quiet


def say(text="", end="\n", error=False):
    """Print text, or an object as text, on stdout, or with ``error`` on stderr, above any progress bar.

    What the encoding of the stream lacks is escaped. A stream that is closed, or that fails (a full disk, a
    terminal that is gone), is given up, and the program goes on; ReaderLeft is raised once when the reader of
    stdout has left.
    """
    stream = sys.stderr if error else sys.stdout
    if stream is None or stream.closed:
        return
    encoding = getattr(stream, "encoding", None) or "utf-8"
    line = (printable(str(text)) + end).encode(encoding, "backslashreplace").decode(encoding)
    try:
        if "tqdm" in sys.modules:
            from tqdm import tqdm

            tqdm.write(line, file=stream, end="")
        else:
            stream.write(line)
        stream.flush()
    except OSError as problem:
        _give_up("stderr" if error else "stdout")
        if isinstance(problem, BrokenPipeError) and not error:
            raise ReaderLeft("the reader of the output left") from problem


def bar(show=None, **options):
    """Return a tqdm bar on stderr; ``show=None`` shows it on a terminal, and in a notebook as its own."""
    show = False if _quiet else show
    if show is not False and in_notebook():
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # where the notebook has no widgets, tqdm.auto writes text
            from tqdm.auto import tqdm
        return tqdm(**options)
    from tqdm import tqdm

    show = sys.stderr is not None and not sys.stderr.closed and sys.stderr.isatty() if show is None else show
    return tqdm(disable=not show, file=_Tolerant(), **options)


def in_notebook():
    """Whether this runs in a Jupyter kernel."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"


@contextmanager
def prepared():
    """Make the streams of a command ready: closed ones lead nowhere.

    Warnings are one line each, without the place in the code. Those of the picture decoders are dropped: what
    matters of them is an error of the file by its name.
    """
    import warnings

    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:  # closed when the process began; the lowest free descriptor is just that one
            setattr(sys, name, _nowhere(mode))
        elif mode == "w" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # for argparse and tracebacks
    before, warnings.formatwarning = warnings.formatwarning, _one_line
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")
            yield
    finally:
        warnings.formatwarning = before


def _one_line(message, category, filename, lineno, line=None):
    return f"cnn: warning: {message}\n"


def finish():
    """Write what stdout still holds, so that nothing is left to fail when the interpreter ends."""
    try:
        sys.stdout.flush()
    except OSError as problem:
        _give_up("stdout")
        if isinstance(problem, BrokenPipeError):
            raise ReaderLeft("the reader of the output left") from problem


def _escaped(c):
    if c.isprintable() and c not in _INVISIBLE:
        return c
    code = ord(c)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    if (
        unicodedata.category(c) in ("Cc", "Cs")
        or unicodedata.bidirectional(c) in _BIDIRECTIONAL
        or c in _INVISIBLE
    ):
        return c.encode("unicode_escape").decode()
    return c


def _give_up(name):
    """Lead a stream that cannot be written to nowhere, under its old number, for the rest of the process."""
    stream = getattr(sys, name)
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    except (OSError, ValueError):  # no file of the system's, as in a notebook
        setattr(sys, name, _nowhere("w"))


def _nowhere(mode):
    return open(os.devnull, mode, encoding="utf-8", errors="backslashreplace")


class _Tolerant:
    """stderr for a bar: when it fails, the bar is lost and not the training."""

    def write(self, text):
        try:
            sys.stderr.write(text)
        except OSError:
            _give_up("stderr")

    def flush(self):
        try:
            sys.stderr.flush()
        except OSError:
            _give_up("stderr")

    def __getattr__(self, name):
        return getattr(sys.stderr, name)
