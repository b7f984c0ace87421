"""Which checkpoint a run goes on from, by one worker and by several, and which stay."""

import threading

import pytest

from kregkit._core.workers import Worker
from kregkit.callbacks._checkpoints import Checkpoints


def names(path):
    return sorted(one.name for one in path.glob("*.state"))


def name(serial):
    return f"checkpoint-{serial:08d}.state"


def test_a_link_in_place_of_a_checkpoint_is_not_followed(tmp_path):
    checkpoints = Checkpoints(tmp_path / "run", 2, Worker())
    checkpoints.acquire()
    checkpoints.load()
    for serial in (1, 2):
        checkpoints.save(lambda serial=serial: {"identity": {}, "serial": serial})
        checkpoints.wait()
    checkpoints.release()
    newest, precious = tmp_path / "run" / name(2), tmp_path / "precious"
    newest.rename(precious)
    newest.symlink_to(precious)
    unfinished = tmp_path / "run" / ".checkpoint-00000003-x.state"
    unfinished.symlink_to(precious)
    again = Checkpoints(tmp_path / "run", 1, Worker())
    again.acquire()
    again.tidy()
    with pytest.warns(RuntimeWarning, match="is no ordinary file"):
        assert again.load()["serial"] == 1
    again.save(lambda: {"identity": {}, "serial": 3})
    again.release()
    assert names(tmp_path / "run") == [name(3)] and precious.exists() and not unfinished.is_symlink()


class Workers:
    """The checkpoints of two workers that start together, each in a thread."""

    def __init__(self, directory, keep=1):
        self.values, self.barrier = [None, None], threading.Barrier(2)
        self.checkpoints = [Checkpoints(directory, keep, Worker(index, 2)) for index in range(2)]

    def start(self):
        """Returns the serial that each goes on from."""
        found = [None, None]

        def run(index):
            one = self.checkpoints[index]
            one.acquire()
            self.barrier.wait()
            one.tidy()
            found[index] = one.load(lambda value: self.gather(index, value))

        threads = [threading.Thread(target=run, args=(index,)) for index in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return [None if state is None else state["serial"] for state in found]

    def gather(self, index, value):
        self.values[index] = value
        self.barrier.wait()
        values = list(self.values)
        self.barrier.wait()
        return values

    def save(self, index, serial):
        self.checkpoints[index].save(lambda: {"identity": {}, "serial": serial})
        self.checkpoints[index].wait()

    def end(self):
        for one in self.checkpoints:
            one.release()


def test_workers_go_on_from_the_newest_checkpoint_that_all_have(tmp_path):
    first = Workers(tmp_path)
    assert first.start() == [None, None]
    for serial in (1, 2, 3):
        first.save(0, serial)
        if serial < 3:
            first.save(1, serial)
    # The chief can't know whether the other's third will ever be there.
    assert names(tmp_path) == [name(2), name(3)] and names(tmp_path / "worker-1") == [name(2)]
    first.end()
    second = Workers(tmp_path)
    assert second.start() == [2, 2]
    for index in (0, 1, 0, 1):
        second.save(index, 4)
    assert names(tmp_path)[-1] == names(tmp_path / "worker-1")[-1] == name(5)
    assert name(3) not in names(tmp_path)
    second.end()


def test_a_worker_that_does_not_see_the_directory_says_so(tmp_path):
    lost = Checkpoints(tmp_path / "elsewhere", 1, Worker(1, 2))
    lost.acquire()
    with pytest.raises(ValueError, match="must see the same directory.*Received: directory="):
        lost.tidy()
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_without_a_common_checkpoint_all_begin_anew(tmp_path):
    first = Workers(tmp_path)
    first.start()
    first.save(0, 1)
    first.end()
    second = Workers(tmp_path)
    assert second.start() == [None, None]
    second.end()
