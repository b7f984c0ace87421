"""A time limit for a function, which runs in a thread: looking up a host's name has no limit of its own."""

import threading


def answers_in_time(function, seconds):
    """Returns whether `function()` returns a true value within `seconds`; an `OSError` or `ValueError` means no.

    The thread may outlive the question, also the interpreter: nothing that it meets is printed.

    Args:
        function: Callable without arguments.
        seconds: Float > 0.

    >>> answers_in_time(lambda: True, 1.0), answers_in_time(lambda: [].index(0), 1.0)
    (True, False)
    """
    answers, finished = [], threading.Event()

    def ask():
        try:
            answers.append(bool(function()))
        except Exception:
            # An interpreter that ends takes modules away under a thread that still waits for an answer.
            pass
        finally:
            finished.set()

    threading.Thread(target=ask, daemon=True).start()
    finished.wait(seconds)
    return answers == [True]
