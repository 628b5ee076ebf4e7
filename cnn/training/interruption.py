"""Ctrl-C and SIGTERM as a question that the training loop asks between two steps."""

import signal
import threading

from cnn.errors import CnnError


class Interrupted(CnnError):
    """Training stopped by a signal after its state was saved; the exit code is 128 + the signal."""

    def __init__(self, message, signum):
        super().__init__(message)
        self.exit_code = 128 + signum


class Interruption:
    """While this context lasts, SIGINT and SIGTERM only set ``signum``; a second one ends at once.

    Signals reach the main thread alone, so elsewhere nothing is installed.
    """

    signum = None

    def __enter__(self):
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGINT, signal.SIGTERM):
                self._before[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(self, *_):
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _note(self, signum, _frame):
        self.signum = signum
        for number, handler in self._before.items():
            signal.signal(number, handler)
