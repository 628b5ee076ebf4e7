"""Ctrl-C, SIGTERM and SIGHUP as a question that the training loop asks between two steps."""

import signal
import threading
from contextlib import contextmanager

from cnn.errors import CnnError

_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Interrupted(CnnError):
    """Training stopped by a signal after its state was saved; the exit code is 128 + the signal."""

    def __init__(self, message, signum):
        super().__init__(message)
        self.exit_code = 128 + signum


class _Now(BaseException):
    """Leaves whatever runs; no Exception, as a compiler may catch those."""


class Interruption:
    """While this context lasts, SIGINT, SIGTERM and SIGHUP only set ``signum``; a second one ends at once.

    A signal that was ignored when the process began stays ignored: SIGHUP under nohup, SIGINT of a job that a
    shell put into the background. Signals reach the main thread alone, so elsewhere nothing is installed.
    """

    signum = None
    _immediately = False

    def __enter__(self):
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            for signum in _SIGNALS:
                if signal.getsignal(signum) not in (signal.SIG_IGN, None):
                    self._before[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(self, *_):
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    @contextmanager
    def at_once(self, error):
        """While this context lasts, a signal leaves it with ``error(signum)``, an exception, at once."""
        self._immediately = True
        try:
            yield
        except _Now:
            raise error(self.signum) from None
        finally:
            self._immediately = False

    def _note(self, signum, _frame):
        self.signum = signum
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._immediately:
            raise _Now
