"""Every public constructor and function says which argument makes no sense: see `argument_calls.py`."""

import os
import pathlib
import re
import subprocess
import sys

import argument_calls
import pytest

pytestmark = pytest.mark.filterwarnings("ignore")

SEED = int(os.environ.get("KREGKIT_TEST_SEED", "0"))
SCRIPT = pathlib.Path(argument_calls.__file__)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Where a word is taken for a path, the files lie in a directory of the test."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("key", [key for key in argument_calls.calls() if key not in argument_calls.TRAIN])
def test_good_values_work(key, capsys):
    """Else a bad value's error would say nothing: the call fails for another reason."""
    assert argument_calls.outcome_of_good(key) == "works"


def test_a_sample_of_calls():
    """One call in twelve, others with another seed; of functions that train, none."""
    outcomes = list(argument_calls.walk(every=12, offset=SEED, without=argument_calls.TRAIN))
    wrong = [f"{one.kind}: {one}" for one in outcomes if one.kind in ("accepted nonsense", "hang")]
    assert not wrong, "\n".join(wrong)
    unclear = [str(one) for one in outcomes if one.kind == "unclear"]
    assert len(unclear) <= 0.02 * len(outcomes), "\n".join(unclear)


@pytest.mark.endurance
@pytest.mark.slow
def test_all_calls():
    """In a process of its own, since a call that fills the memory or never ends would take the tests with it."""
    run = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, timeout=3600, check=False)
    counts = re.search(r"^(\d+) calls: (\d+) accepted nonsense, (\d+) hangs, (\d+) unclear", run.stdout, re.M)
    assert counts, run.stdout[-2000:] + run.stderr[-2000:]
    calls, nonsense, hangs, unclear = map(int, counts.groups())
    assert calls >= 4000
    assert nonsense == hangs == 0, run.stdout
    assert unclear <= 0.02 * calls, run.stdout
