import numpy as np
import pytest

from kregkit.search import Space, choice, grid, integer, log_uniform, uniform


def test_every_combination_is_tried_once_in_a_mixed_order(tmp_path):
    space = Space(rate=log_uniform(1e-4, 1.0), units=integer(1, 5), rule=choice({"a": [1], "b": [2]}))
    seen = []

    def train(parameters, epochs, callbacks):
        seen.append((round(np.log10(parameters["rate"])), parameters["units"], parameters["rule"][0]))
        assert epochs == 2
        return {"val_loss": [sum(seen[-1])] * 2}

    storage = str(tmp_path / "grid.journal")
    result = grid(train, space, {"rate": 3, "units": 2}, epochs=2, storage=storage, verbose=0)
    combinations = [(rate, units, rule) for rate in (-4, -2, 0) for units in (1, 5) for rule in (1, 2)]
    assert sorted(seen) == sorted(combinations) and seen != sorted(seen)
    assert result.best_parameters == {"rate": 1e-4, "units": 1, "rule": [1]}
    assert len(result.rounds) == 1 and result.studies[0].study_name == "grid-1"
    grid(train, space, {"rate": 3, "units": 2}, epochs=2, storage=storage, verbose=0)
    assert len(seen) == 12
    # Another grid in the same place would mix with it.
    with pytest.raises(ValueError, match="grid"):
        grid(train, space, {"rate": 2, "units": 2}, epochs=2, storage=storage, verbose=0)


@pytest.mark.parametrize("arguments", [{"space": 3}, {"points": 0}, {"epochs": 0}, {"points": {"other": 2}}])
def test_bad_arguments_are_refused(arguments):
    with pytest.raises(ValueError, match="Received: "):
        grid(**{"train": lambda *_: {}, "space": Space(a=uniform(0, 1)), "points": 2, "verbose": 0, **arguments})
