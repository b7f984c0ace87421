import contextlib
import multiprocessing
import signal
import threading

import keras
import numpy as np
import pytest

from kregkit._core.interrupts import start_unreached, uninterrupted
from kregkit._core.weights import swapped


@pytest.fixture(autouse=True)
def _ctrl_c_raises():
    """Where tests run in several processes, these ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def press():
    """What Python does in the main thread after Ctrl-C."""
    signal.getsignal(signal.SIGINT)(signal.SIGINT, None)


def test_an_interrupt_is_held_back_until_the_block_is_done():
    before, done = signal.getsignal(signal.SIGINT), []
    with pytest.raises(KeyboardInterrupt), uninterrupted():
        press()
        press()
        done.append("whole")
    assert done == ["whole"] and signal.getsignal(signal.SIGINT) is before
    with pytest.raises(KeyboardInterrupt):
        press()


def test_an_error_in_the_block_is_told_beside_the_interrupt():
    with pytest.raises(KeyboardInterrupt) as raised, uninterrupted():
        press()
        raise ValueError("inside")
    assert "inside" in str(raised.value.__context__)


def test_other_threads_have_nothing_to_hold_back():
    done = []

    def work():
        with uninterrupted():
            done.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [signal.getsignal(signal.SIGINT)]


def test_weights_are_put_back_whole():
    """Ctrl-C while the first of them is put back comes after the last one."""

    class Variable(keras.Variable):
        def assign(self, value):
            if armed:
                press()
            return super().assign(value)

    armed = []
    variables = [Variable(np.zeros(2)) for _ in range(3)]
    with pytest.raises(KeyboardInterrupt), swapped(variables, [np.ones(2)] * 3):
        armed.append(True)
    armed.clear()
    assert [variable.numpy().tolist() for variable in variables] == [[0, 0]] * 3


def test_a_process_is_started_while_ctrl_c_is_ignored_and_never_after():
    seen = []

    class Process:
        def start(self):
            seen.append(signal.getsignal(signal.SIGINT))
            raise OSError

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(OSError):
        start_unreached(Process())
    assert seen == [signal.SIG_IGN] and signal.getsignal(signal.SIGINT) is before

    def work():
        with contextlib.suppress(OSError):
            start_unreached(Process())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.SIG_IGN, before]
    assert multiprocessing.active_children() == []
