"""Signals: saved, answered at once while nothing can be lost, and ignored where they were ignored before."""

import os
import signal

import pytest

from cnn.training.interruption import Interrupted, Interruption


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_is_noted_and_a_second_one_is_left_to_the_process(name):
    signum, seen = getattr(signal, name), []
    before = signal.signal(signum, lambda *_: seen.append(name))
    try:
        with Interruption() as interruption:
            os.kill(os.getpid(), signum)
            assert (interruption.signum, seen) == (signum, [])
            os.kill(os.getpid(), signum)
            assert seen == [name]
    finally:
        signal.signal(signum, before)


@pytest.mark.parametrize("name", ["SIGINT", "SIGHUP"])
def test_a_signal_that_was_ignored_stays_ignored(name):
    signum = getattr(signal, name)
    before = signal.signal(signum, signal.SIG_IGN)
    try:
        with Interruption() as interruption:
            os.kill(os.getpid(), signum)
            assert interruption.signum is None
        assert signal.getsignal(signum) == signal.SIG_IGN
    finally:
        signal.signal(signum, before)


def test_while_kernels_are_compiled_a_signal_is_answered_at_once():
    def compile_for_ever():
        while True:
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            except Exception:  # compilers catch those
                continue

    with (
        pytest.raises(Interrupted) as error,
        Interruption() as interruption,
        interruption.at_once(lambda signum: Interrupted("before the first step", signum)),
    ):
        compile_for_ever()
    assert error.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
