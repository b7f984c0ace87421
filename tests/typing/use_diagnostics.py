"""What a user writes to see why a network doesn't learn; read by the type checker, never run."""

from typing import assert_type

import keras
import numpy as np

from kregkit import diagnostics, plots


def look(model: keras.Model, x: np.ndarray, y: np.ndarray) -> list[str]:
    report = diagnostics.preflight(model, (x, y), checks=["initial_loss", "signal_flow"], seconds=30, verbose=0)
    assert_type(report, diagnostics.PreflightReport)
    finding = diagnostics.gradient_check(model, (x, y))
    assert_type(finding, diagnostics.Finding)
    history = model.fit(x, y, validation_data=(x, y))
    curves = diagnostics.diagnose_curves(history, floor=0.1)
    swept = diagnostics.learning_rate_range(model, (x, y), low=1e-6, high=1.0)
    assert_type(swept, diagnostics.LearningRateRange)
    swept.plot()
    axes = plots.loss_curves(history, label="first")
    plots.loss_curves({"loss": [1.0, 0.5]}, axes, label="second").set_title("two runs")
    plots.errors({"plain": 5.0, "ensemble": 3.0}, baseline="plain")
    return report.faults + finding.faults + curves.faults
