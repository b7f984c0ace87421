"""Times several `fit`s epoch by epoch in turn, so that a machine's mood falls on all of them alike."""

import random
import statistics
import threading
import time

import keras


class _Turn(keras.callbacks.Callback):
    """Holds a fit at each epoch's begin until its turn, and times the epoch."""

    def __init__(self):
        super().__init__()
        self.go, self.done = threading.Semaphore(0), threading.Semaphore(0)
        self.seconds, self.processor = [], []

    def on_epoch_begin(self, epoch, logs=None):
        self.go.acquire()
        self.start = time.perf_counter(), time.process_time()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds.append(time.perf_counter() - self.start[0])
        self.processor.append(time.process_time() - self.start[1])
        self.done.release()


def interleaved_fits(fits, rounds, warmup=2, processor=None):
    """Runs each of `fits` in a thread of its own, one epoch of one at a time, in a new random order each round.

    In a fixed order a row would always follow the same other one, whose work still warms or fills the caches.

    Args:
        fits: Dictionary from a name to a callable `(callback, epochs)` that calls `fit` with that callback among the
            callbacks, and so many epochs.
        rounds: Integer, the epochs that count.
        warmup: Integer, the epochs before them, which trace and warm up.
        processor: Dictionary, or None: filled with the processor seconds of all threads per epoch, by name. Other work
            on the machine hardly changes these.

    Returns:
        Dictionary from name to the list of seconds per epoch.
    """
    turns = {name: _Turn() for name in fits}
    errors = []

    def run(name):
        try:
            fits[name](turns[name], warmup + rounds)
        except BaseException as error:
            errors.append(error)
            turns[name].done.release()

    threads = [threading.Thread(target=run, args=(name,), daemon=True) for name in fits]
    for thread in threads:
        thread.start()
    order = random.Random(0)
    for _ in range(warmup + rounds):
        for turn in order.sample([*turns.values()], len(turns)):
            turn.go.release()
            turn.done.acquire()
            if errors:
                raise errors[0]
    for thread in threads:
        thread.join()
    if processor is not None:
        processor.update({name: turn.processor[warmup:] for name, turn in turns.items()})
    return {name: turn.seconds[warmup:] for name, turn in turns.items()}


def median_ratio(seconds, base):
    """Returns the median over rounds of one time over another of the same round."""
    return statistics.median(one / other for one, other in zip(seconds, base))


def print_table(header, rows):
    """Prints rows of strings in aligned columns, the first to the left, the others to the right."""
    widths = [max(len(str(row[column])) for row in [header, *rows]) for column in range(len(header))]
    for index, row in enumerate([header, *rows]):
        cells = [
            str(cell).ljust(width) if column == 0 else str(cell).rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths))
        ]
        print("  ".join(cells).rstrip())
        if index == 0:
            print("  ".join("-" * width for width in widths))
