"""What a user writes with posteriors, soups and calibration; read by the type checker, never run."""

from typing import assert_type

import keras
import numpy as np

from kregkit import callbacks, inference


def average(model: keras.Model, others: list[keras.Model], x: np.ndarray, y: np.ndarray) -> float:
    swag = callbacks.PolyakAveraging("uniform", posterior=True, rank=10)
    model.fit(x, y, callbacks=[swag])
    last = inference.laplace(model, (x, y), structure="kronecker")
    assert_type(last, inference.WeightPosterior)
    last.save("posterior.npz")
    drawn = inference.marginalize(model, weights=inference.WeightPosterior.load("posterior.npz"), noise=None)
    assert_type(drawn, inference.Marginal)
    line = inference.loss_along(model, others[0], (x, y), points=5)
    assert_type(line, inference.LossAlong)
    assert_type(line.rise, float)
    try:
        mean = inference.soup([model, *others], (x, y), greedy=False)
    except inference.DifferentBasinsError as error:
        error.line.plot()
        raise
    ensemble = inference.Ensemble([model, *others])
    assert_type(ensemble.members, list[inference.Member])
    ensemble.export("served", verbose=False)
    calibrated = inference.calibrate(ensemble, (x, y), method="isotonic")
    assert_type(calibrated, inference.Calibrated)
    assert_type(calibrated.to_model(), keras.Model)
    assert_type(calibrated.report((x, y)), inference.Report)
    print(mean)
    return line.rise
