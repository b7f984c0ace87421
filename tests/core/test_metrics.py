"""Which way a metric is better."""

import math

import pytest

from kregkit._core.metrics import direction, is_better


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("loss", "min"),
        ("val_loss", "min"),
        ("val_accuracy", "max"),
        ("val_acc", "max"),
        ("sparse_top_k_categorical_accuracy", "max"),
        ("val_AUC", "max"),
        ("precision_at_recall", "max"),
        ("mean_io_u", "max"),
        ("sensitivity_at_specificity", "max"),
        ("true_positives", "max"),
        ("false_positives", "min"),
        ("pearson_correlation", "max"),
        ("mae", "min"),
        ("root_mean_squared_error", "min"),
        ("accuracy_loss", "min"),
        ("r2_score", "max"),
        ("f1_score", "max"),
    ],
)
def test_by_name(name, expected):
    assert direction(name) == expected


def test_given_and_refused():
    assert direction("val_loss", "max") == "max"
    with pytest.raises(ValueError, match="Received: mode='up'"):
        direction("val_loss", "up")


@pytest.mark.parametrize(
    ("value", "best", "mode", "delta", "expected"),
    [
        (1.0, None, "min", 0.0, True),
        (math.nan, None, "min", 0.0, False),
        (math.nan, 1.0, "max", 0.0, False),
        (math.inf, None, "max", 0.0, True),
        (1.0, 1.0, "min", 0.0, False),
        (0.5, 1.0, "min", 0.5, False),
        (0.25, 1.0, "min", 0.5, True),
        (1.5, 1.0, "max", 0.5, False),
        (2.0, 1.0, "max", 0.5, True),
    ],
)
def test_better(value, best, mode, delta, expected):
    assert is_better(value, best, mode, delta) is expected
