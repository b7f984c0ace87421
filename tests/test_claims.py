"""How claims are judged and recorded, and that the page in docs/ is what its numbers make."""

import json
import math
import sys

import numpy as np
import pytest

pytest.importorskip("matplotlib")
from benchmarks import _claims

HELD, LACKING, CONTRADICTED = _claims.VERDICTS


def test_the_interval_by_hand():
    # Differences -1, -2, -3: mean -2, deviation 1; t(0.975, 2) = 4.3027 from a table, over the root of 3.
    found = _claims.summarize("lower", [(4, 5), (3, 5), (2, 5)])
    assert (found.first, found.second, found.difference) == (3, 5, -2)
    assert (found.low, found.high) == pytest.approx((-2 - 2.4841, -2 + 2.4841), abs=1e-4)
    assert found.verdict == LACKING


@pytest.mark.parametrize(
    ("expect", "differences", "verdict"),
    [
        ("lower", [-1.0, -1.1, -0.9], HELD),
        ("lower", [1.0, 1.1, 0.9], CONTRADICTED),
        ("lower", [-1.0, 1.0, 0.1], LACKING),
        ("lower", [0.0, 0.0, 0.0], LACKING),
        ("higher", [1.0, 1.1, 0.9], HELD),
        ("higher", [-1.0, -1.1, -0.9], CONTRADICTED),
        ("within", [0.01, -0.01, 0.0], HELD),
        ("within", [1.0, 1.1, 0.9], CONTRADICTED),
        ("within", [0.0, 0.2, 0.0], LACKING),
    ],
)
def test_verdicts(expect, differences, verdict):
    assert _claims.summarize(expect, [(one, 0.0) for one in differences], margin=0.1).verdict == verdict


def test_one_seed_has_no_interval_and_says_so():
    found = _claims.summarize("lower", [(1.0, 2.5)])
    assert found.verdict == "one seed says nothing" and math.isnan(found.low)
    assert _claims.interval(found) == "-1.5 (one seed)"


def test_intervals_are_printed_to_two_digits_of_their_width():
    assert _claims.interval(_claims.Summary(3, 0, 0, -1.234, -1.5, -0.968, HELD)) == "-1.23 (-1.50 to -0.97)"
    assert _claims.interval(_claims.Summary(3, 0, 0, 12.34, 2.3, 22.4, HELD)) == "+12 (+2 to +22)"


@pytest.fixture
def registry(monkeypatch):
    """A registry of one claim of two seeds, which counts how often it is measured."""
    monkeypatch.setattr(_claims, "REGISTRY", {})
    measured = []

    @_claims.claim("one", "one beats two", "Numbers", ("one", "two"), "units", seeds=2)
    def measure(seed, lab):
        measured.append(seed)
        return seed, 10.0 + 3 * seed

    return measured


def test_a_run_that_was_cut_goes_on_with_what_lacks(tmp_path, registry):
    path = tmp_path / "claims.jsonl"
    records = _claims.Records(path, resume=False)
    records.add(claim="one", seed=0, values=[0.0, 10.0], seconds=1.0)
    records.add(tuned="setting", rate=0.1)
    with open(path, "a", encoding="utf-8") as file:
        file.write('{"claim": "one", "se')  # Killed while it wrote.
    again = _claims.Records(path)
    assert again.pairs("one") == {0: (0.0, 10.0)} and again.tuned()["setting"]["rate"] == 0.1
    again.add(claim="one", seed=1, values=[1.0, 13.0], seconds=1.0)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line.get("seed") for line in lines] == [0, None, 1]
    assert _claims.summaries(_claims.Records(path))["one"].difference == -11.0
    assert _claims.Records(path, resume=False).lines == []


def test_a_quick_run_takes_the_cheapest_claims_first():
    lines = [{"tuned": "a", "rate": 0.1}]
    # The first seed of "dear" tunes its rate, which a quick run doesn't.
    lines += [{"claim": "dear", "seed": seed, "seconds": seconds} for seed, seconds in enumerate((90.0, 8.0, 9.0))]
    lines += [{"claim": "cheap", "seed": 0, "seconds": 7.0}]
    assert _claims.cheapest_first(["unknown", "dear", "cheap"], lines, 3) == ["cheap", "dear", "unknown"]


def test_the_table_says_what_was_not_measured(tmp_path, registry):
    records = _claims.Records(tmp_path / "claims.jsonl")
    text = _claims.page(_claims.summaries(records), "Introduction.")
    assert "Not measured in this run: `one`." in text
    for seed in (0, 1, 2):
        records.add(claim="one", seed=seed, values=[0.0, 10.0 + seed])
    text = _claims.page(_claims.summaries(records), "Introduction.")
    assert "| one beats two (`one`) | units | one 0 | two 11 | -11.0 (-13.5 to -8.5) | 3 | holds |" in text
    assert "1 hold, 0 don't show here, 0 are contradicted" in text and "Not measured" not in text


def test_the_picture_turns_every_claim_to_the_right(tmp_path, registry):
    records = _claims.Records(tmp_path / "claims.jsonl")
    for seed in (0, 1, 2):
        records.add(claim="one", seed=seed, values=[0.0, 1.0 + seed])
    axis = _claims.picture(_claims.summaries(records)).axes[0]
    (point,) = [line.get_xdata()[0] for line in axis.get_lines() if line.get_marker() == "o" and len(line.get_xdata())]
    # The mean is 2, half the interval 4.3027 / sqrt(3).
    assert point == pytest.approx(2 / 2.4841, abs=1e-4)


def test_photographs_to_train_to_tune_and_to_test_on_share_no_tile(monkeypatch):
    pytest.importorskip("mlxtend")
    monkeypatch.syspath_prepend(str(_claims.ROOT / "benchmarks"))
    import _claims_transfer as transfer

    # Each tile of 53 pixels, four a side in each cell of 213, has a number of its own.
    tile = np.arange(639) // 213 * 4 + np.minimum(np.arange(639) % 213 // 53, 3)
    numbers = 20 * tile[:426, None] + tile[None]
    images = [np.repeat((numbers + 400 * index)[..., None], 3, -1).astype("float32") for index in range(2)]
    monkeypatch.setattr(transfer, "_photographs", lambda: images)
    tiles = {}
    for part in ("train", "tune", "test"):
        crops, _ = transfer.photograph_cells(0, 10, part)
        assert np.ptp(crops.reshape(len(crops), -1), axis=1).max() < 0.1  # Each lies within a tile.
        tiles[part] = set(np.round(crops[:, 0, 0, 0]))
    assert not tiles["train"] & tiles["tune"] | tiles["train"] & tiles["test"] | tiles["tune"] & tiles["test"]


def test_the_page_in_docs_is_what_its_numbers_make(monkeypatch):
    pytest.importorskip("mlxtend")
    monkeypatch.syspath_prepend(str(_claims.ROOT / "benchmarks"))
    import claims

    module = sys.modules["_claims"]
    found = module.summaries(module.Records(module.RESULTS))
    assert module.PAGE.read_text(encoding="utf-8") == module.page(found, module.INTRODUCTION)
    assert len(claims.claims.REGISTRY) >= 50
    assert all(np.isfinite(one.difference) for one in found.values())
