"""The expected calibration error: how far confidence lies from accuracy, over bins of confidence (Guo et al. 2017)."""

import numpy as np

# Bins of the calibration error, as in Guo et al. 2017.
_NUM_BINS = 15


def mean_gap(gaps):
    """Returns the expected calibration error, from the mean of `gaps` over decisions."""
    return float(np.abs(gaps).sum())


def equal_width_bins(confidence):
    """Returns the bin of each confidence; bins are open at the left, so that exactly 1 has the last one."""
    return np.clip(np.ceil(confidence * _NUM_BINS).astype(int) - 1, 0, _NUM_BINS - 1)


def equal_mass_bins(confidence, weight):
    """Returns the bin of each confidence, of bins that hold equal weight; equal confidences share one."""
    _, inverse = np.unique(confidence, return_inverse=True)
    mass = np.bincount(inverse, weight)
    middle = (np.cumsum(mass) - mass / 2) / mass.sum()
    return np.clip(np.floor(middle * _NUM_BINS).astype(int), 0, _NUM_BINS - 1)[inverse]


def gaps(confidence, right, bins):
    """Returns `(decisions, bins)`: how far each decision moves its bin's accuracy from its confidence."""
    moved = np.zeros((len(confidence), _NUM_BINS))
    moved[np.arange(len(confidence)), bins] = right - confidence
    return moved
