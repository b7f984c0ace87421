"""What a user writes with the search; read by the type checker, never run."""

from typing import Any, assert_type

import keras
import numpy as np

from kregkit import search


def build(parameters: dict[str, Any]) -> keras.Model:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(parameters["units"])])
    model.compile(keras.optimizers.SGD(parameters["rate"]), "mse")
    return model


def tune(x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    space = search.Space(
        rate=search.log_uniform(1e-4, 1.0), units=search.integer(8, 64, step=8), kind=search.choice(["a", "b"])
    )
    train = search.build_and_fit(build, (x, y), (x, y), batch_size=32)
    found = search.search(train, space, trials=[4, 2], epochs=[1, 3], direction="min", storage="trials.journal")
    assert_type(found, search.SearchResult)
    found.to_csv("trials.csv")
    mean, low, high = search.mean_interval([0.1, 0.2, 0.3], confidence=0.9)
    print(mean + low + high, found.importance(), found.edges)
    search.grid(train, space, {"rate": 3, "units": 2}, epochs=1)
    search.cross_validate(build, (x, y), folds=3, parameters={"rate": 0.1, "units": 4}, metric="val_loss")
    return found.best_parameters
