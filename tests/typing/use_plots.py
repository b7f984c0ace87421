"""What a user writes with the plots; read by the type checker, never run."""

from typing import assert_type

import keras
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kregkit import layers, plots


def draw(history: keras.callbacks.History, p: np.ndarray, y: np.ndarray) -> Figure:
    axes = plots.loss_curves(history, label="one", color="tab:blue", log=False)
    assert_type(axes, Axes)
    plots.error_curves(history, axes, name="accuracy").set_title("error")
    plots.errors({"plain": 5.0, "ensemble": 3.0}, intervals={"plain": (4.0, 6.0)}, baseline="plain")
    plots.reliability(p, y, num_bins=10)
    plots.ensemble_size(np.stack([p, p]), y, num_subsets=10)
    plots.error_against_draws([1, 2, 4], [5.0, 4.0, 3.5], baseline=5.5)
    plots.survival_probabilities(layers.linear_survival(9), label="linear")
    plots.loss_line([0.0, 0.5, 1.0], [1.0, 2.0, 1.0])
    plots.transfer_curves({"probe": {5: [10.0, 11.0]}}, labels={5: "five"})
    plots.search_scatter([{"rate": 0.1, "units": 3, "value": 0.5}], "rate", "units", log_y=False, direction="min")
    plots.best_so_far({"random": [[1, 0.5], [2, 0.4]]})
    grid = plots.trajectories({"bowl": {"function": lambda u, v: u**2 + v**2, "paths": {"SGD": np.zeros((3, 2))}}})
    assert_type(grid, np.ndarray)
    return plots.contact_sheet(np.zeros((4, 8, 8, 3)), titles=["a", "b", "c", "d"], columns=2)
