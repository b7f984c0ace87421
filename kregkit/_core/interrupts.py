"""Ctrl-C in the midst of what must be done whole, and processes that it doesn't reach."""

import contextlib
import signal
import threading


@contextlib.contextmanager
def uninterrupted():
    """Holds Ctrl-C back for a block, such as one that puts weights back, and passes it on at the block's end.

    Python calls signal handlers in the main thread only, so elsewhere there is nothing to hold back.

    >>> with uninterrupted():
    ...     "whole"
    'whole'
    """
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    held: list[tuple] = []
    signal.signal(signal.SIGINT, lambda *arguments: held.append(arguments))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if held:
            handler(*held[0])


def start_unreached(process):
    """Starts a `multiprocessing` process that ignores Ctrl-C, which a terminal sends to all its processes at once.

    The process that waits for it is interrupted, and ends it; by itself it would print a traceback beside that one's.
    """
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or handler is None:
        process.start()
        return
    # A new process inherits what is ignored, and nothing else.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process.start()
    finally:
        signal.signal(signal.SIGINT, handler)
