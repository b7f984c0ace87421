import numpy as np
import optuna
import pytest

from kregkit.search import Space, choice, integer, log_uniform, uniform


def space():
    return Space(
        rate=log_uniform(1e-4, 1.0),
        rule=choice(["sgd", "adam", "none"]),
        momentum=uniform(0.0, 1.0).when(rule="sgd"),
        layers=choice({"one": (8,), "two": (8, 8)}).when(rule=["sgd", "adam"]),
        units=integer(1, 9).when(layers="two"),
    )


def test_draws_follow_the_conditions_and_fill_the_ranges():
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    draws = [space().draw(study.ask()) for _ in range(300)]
    for drawn in draws:
        assert ("momentum" in drawn) == (drawn["rule"] == "sgd")
        assert ("layers" in drawn) == (drawn["rule"] != "none")
        assert ("units" in drawn) == (drawn.get("layers") == "two")
    # On a logarithmic scale half of the rates lie below 0.01; the bound is five standard deviations.
    assert abs(sum(drawn["rate"] < 1e-2 for drawn in draws) - 150) < 5 * 75**0.5
    assert {drawn["units"] for drawn in draws if "units" in drawn} == set(range(1, 10))
    assert space().values({"rate": 0.1, "rule": "adam", "layers": "two"})["layers"] == (8, 8)


def test_conditions_on_integers_and_tuples():
    space = Space(
        layers=integer(1, 4),
        second=integer(8, 64, step=8).when(layers=range(2, 5)),
        fourth=integer(8, 64).when(layers=4),
        shape=choice([(8,), (8, 8)]),
        drop=uniform(0.0, 0.5).when(shape=(8, 8)),
        both=uniform(0.0, 0.5).when(shape=[(8,), (8, 8)]),
    )
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for drawn in [space.draw(study.ask()) for _ in range(60)]:
        assert ("second" in drawn) == (drawn["layers"] > 1) and ("fourth" in drawn) == (drawn["layers"] == 4)
        assert ("drop" in drawn) == (drawn["shape"] == "(8, 8)") and "both" in drawn
        assert drawn.get("second", 8) % 8 == 0
        assert space.values(drawn)["shape"] in [(8,), (8, 8)]
    assert space.middle()["shape"] == "(8,)" and "drop" not in space.middle()
    # What others depend on doesn't grow: `second` is asked for nowhere else.
    trials = [({"layers": 4, "second": 16, "fourth": 20, "shape": "(8,)", "both": 0.2}, float(i)) for i in range(9)]
    narrow, remarks = space.around(trials, "min")
    assert narrow.parameters["layers"].high == 4 and "layers" not in remarks
    assert narrow.parameters["second"].condition[0][1][-1] == 4 and "drop" not in narrow.parameters
    # Values that are gone from the integer's range take their parameters along.
    few = [({"layers": 1, "shape": "(8,)", "both": 0.2}, 0.0)] * 3
    narrow, _ = Space(**space.parameters).around(few, "min")
    assert narrow.parameters["layers"].high < 4 and "fourth" not in narrow.parameters


def test_grid_by_hand():
    grid = space().grid({"rate": 2, "momentum": 3, "units": 2})
    # sgd: 3 momenta x (one, or two with 2 units); adam: the same without momenta; none: nothing further.
    assert len(grid) == 2 * (3 * 3 + 3 + 1)
    assert len({tuple(sorted(one.items())) for one in grid}) == len(grid)
    assert {"rate": 1.0, "rule": "none"} in grid
    assert {"rate": 1.0, "rule": "sgd", "momentum": 0.5, "layers": "two", "units": 9} in grid
    assert len(Space(a=uniform(0, 1), b=choice(["x", "y"])).grid(4)) == 8


def test_next_space_lies_around_the_best_fifth():
    one = Space(a=uniform(0.0, 10.0), b=uniform(0.0, 10.0))
    # The score is a's distance from 5; b is anything.
    others = [3, 9, 1, 7, 2, 5, 8, 0, 4, 6, 3]
    trials = [({"a": float(a), "b": float(b)}, abs(a - 5.0)) for a, b in zip(range(11), others)]
    narrow, remarks = one.around(trials, "min")
    # The three best: a = 5, 4, 6 and b = 5, 2, 8.
    assert (narrow.parameters["a"].low, narrow.parameters["a"].high) == (3.0, 7.0)
    assert (narrow.parameters["b"].low, narrow.parameters["b"].high) == (0.0, 10.0)
    assert remarks == {}
    # Where larger is better, the best a, 0, is at an edge, but what is never negative stays so.
    far, remarks = one.around(trials, "max")
    assert remarks == {} and far.parameters["a"].low == 0.0
    free = Space(a=uniform(0.0, 10.0, limits=(-100, 100)), b=uniform(0.0, 10.0))
    far, remarks = free.around(trials, "max")
    assert set(remarks) == {"a"} and (far.parameters["a"].low, far.parameters["a"].high) == (-10.0, 10.0)
    # The best of a parameter that the best trial lacks is no reason to widen.
    dependent = Space(b=choice(["x", "y"]), a=uniform(0.0, 10.0, limits=(-100, 100)).when(b="y"))
    poor = [({"b": "x"}, 0.0), ({"b": "y", "a": 10.0}, 1.0), ({"b": "y", "a": 8.0}, 2.0)]
    narrow, remarks = dependent.around(poor, "min")
    assert remarks == {} and (narrow.parameters["a"].low, narrow.parameters["a"].high) == (6.0, 10.0)
    assert one.around([], "min")[0].to_json() == one.to_json()


def test_trials_that_improve_towards_an_end_widen_it():
    space = Space(a=uniform(0.0, 10.0, limits=(-99, 99)), b=uniform(0.0, 10.0, limits=(-99, 99)), c=choice(["x", "y"]))
    grid = [{"a": float(a), "b": float(b), "c": "xy"[(a + b) % 2]} for a in range(1, 10) for b in range(1, 10)]

    def sides(score, mode="min"):
        # Without the trials at the ends, none of the best is there.
        trials = [(drawn, score(**drawn)) for drawn in grid if 2 < drawn["a"] < 8 and 2 < drawn["b"] < 8]
        _, remarks = space.around(trials, mode)
        assert all("values improve towards the" in remark for remark in remarks.values())
        return {name: remark.split("towards the ")[1].split()[0] for name, remark in remarks.items()}

    assert sides(lambda a, b, c: (a + 9) ** 2 + (b - 5) ** 2) == {"a": "lower"}
    assert sides(lambda a, b, c: (a - 20) ** 2 + (b - 30) ** 2) == {"a": "upper", "b": "upper"}
    assert sides(lambda a, b, c: -((a - 20) ** 2) - (b + 30) ** 2, "max") == {"a": "upper", "b": "lower"}
    assert sides(lambda a, b, c: (a - 5) ** 2 + (b - 5) ** 2) == {}
    rng = np.random.default_rng(0)
    assert sides(lambda a, b, c: rng.normal()) == {}


def test_dropped_options_take_their_parameters_along():
    trials = [({"rate": 0.01, "rule": "adam", "layers": "one"}, 0.0)] * 3
    trials += [({"rate": 0.5, "rule": "sgd", "momentum": 0.5, "layers": "two", "units": 3}, 1.0)] * 3
    narrow, _ = space().around(trials, "min")
    assert narrow.parameters["rule"].options == {"adam": "adam"}
    assert "momentum" not in narrow.parameters
    assert narrow.parameters["layers"].condition == (("rule", ("adam",)),)
    assert set(narrow.parameters["layers"].options) == {"one"} and "units" not in narrow.parameters


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Space(), "at least one"),
        (lambda: Space(a=3), "must come from"),
        (lambda: Space(a=uniform(0, 1).when(b="x"), b=choice(["x"])), "stands before"),
        (lambda: Space(b=uniform(0, 1), a=uniform(0, 1).when(b=0.5)), "must be a choice or an integer"),
        (lambda: Space(b=choice(["x"]), a=uniform(0, 1).when(b="y")), "values that"),
        (lambda: Space(b=integer(1, 4), a=uniform(0, 1).when(b=5)), "values that"),
        (lambda: Space(b=integer(1, 4), a=uniform(0, 1).when(b=True)), "values that"),
        (lambda: Space(b=choice([(1, 2)]), a=uniform(0, 1).when(b=[(1, 3)])), "values that"),
        (lambda: Space(a=uniform(0, 1)).grid({"b": 2}), "lacks 'a'"),
        (lambda: Space(a=uniform(0, 1)).grid({"a": 2, "b": 2}), "which the space lacks"),
        (lambda: Space(a=uniform(0, 1)).around([], "min", quantile=0), "quantile"),
    ],
)
def test_bad_spaces_are_refused(make, text):
    with pytest.raises(ValueError, match="Received: ") as error:
        make()
    assert text in str(error.value)
