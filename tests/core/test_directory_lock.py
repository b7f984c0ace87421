"""One process at a time."""

import signal
import subprocess
import sys

import pytest

from kregkit._core.directory_lock import DirectoryLock

HOLD = """
import sys, time
from kregkit._core.directory_lock import DirectoryLock
lock = DirectoryLock(sys.argv[1], "Run")
lock.acquire()
print("held", flush=True)
time.sleep(60)
"""


def test_another_process_is_named_and_its_death_frees_the_directory(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=rf"in use by process {process.pid} on .*Received: directory="):
            DirectoryLock(tmp_path, "Run").acquire()
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    lock = DirectoryLock(tmp_path, "Run")
    lock.acquire()
    assert lock.held
    lock.release()
    assert not lock.held and not list(tmp_path.iterdir())


def test_within_a_process_too(tmp_path):
    first, second = DirectoryLock(tmp_path, "Run"), DirectoryLock(tmp_path / ".", "Run")
    first.acquire()
    first.acquire()
    with pytest.raises(ValueError, match="in use by this process"):
        second.acquire()
    first.release()
    second.acquire()
    second.release()
    second.release()


def test_a_link_is_no_lock(tmp_path):
    (tmp_path / "else").write_text("kept")
    (tmp_path / "lock").symlink_to(tmp_path / "else")
    with pytest.raises(ValueError, match="link"):
        DirectoryLock(tmp_path, "Run").acquire()
    assert (tmp_path / "else").read_text() == "kept"


def test_what_is_in_the_place_of_a_file_or_a_directory_is_named(tmp_path):
    (tmp_path / "run" / "lock").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"Run's directory can't be used: its file `lock` .*delete it.*Received: dir"):
        DirectoryLock(tmp_path / "run", "Run").acquire()
    (tmp_path / "file").write_text("kept")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ValueError, match=r"a file is in its place .*or use another directory. Received: dir"):
            DirectoryLock(path, "Run").acquire()
    assert (tmp_path / "file").read_text() == "kept"


def test_a_directory_that_was_made_for_it_goes_if_nothing_came(tmp_path):
    lock = DirectoryLock(tmp_path / "new", "Run")
    lock.acquire()
    lock.release()
    assert not (tmp_path / "new").exists()
    lock.acquire()
    (tmp_path / "new" / "file").touch()
    lock.release()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["file"]
