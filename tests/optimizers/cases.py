"""The optimizers' rows of the shared table."""

import keras
from contracts import Case

from kregkit.optimizers import SOAP, Adam, LayerwiseLearningRate, Momentum

MULTIPLIERS = {"kernel": 0.5, ".*/bias": 2.0}


def layerwise():
    return LayerwiseLearningRate(keras.optimizers.AdamW(0.02, weight_decay=0.01), MULTIPLIERS)


# Where eigenvalues lie close together rounding turns the basis, and Adam's division magnifies that. The steps of these
# rows add up to 0.12, so a wrong or missing one would show.
ROUNDED = dict.fromkeys(["eager", "jit", "steps_per_execution", "gradient_accumulation", "mirrored"], 3e-2)

CASES = [
    Case(
        Momentum,
        lambda: Momentum(0.02, momentum=0.8),
        bad=[({"momentum": 1.0}, "momentum"), ({"momentum": -0.1}, "momentum"), ({"momentum": "fast"}, "momentum")],
    ),
    Case(Momentum, lambda: Momentum(0.02, momentum=0.8, nesterov=True, weight_decay=0.01), name="nesterov"),
    Case(Adam, lambda: Adam(0.01), bad=[({"bias_correction": "yes"}, "bias_correction")]),
    Case(Adam, lambda: Adam(0.003, bias_correction=False), name="uncorrected"),
    Case(Adam, lambda: Adam(0.003, bias_correction=False, amsgrad=True), name="uncorrected_amsgrad"),
    Case(
        SOAP,
        lambda: SOAP(0.01, beta_2=0.6, precondition_frequency=3, weight_decay=0.01),
        bad=[
            ({"beta_1": 1.0}, "beta_1"),
            ({"beta_2": -0.5}, "beta_2"),
            ({"epsilon": -1e-8}, "epsilon"),
            ({"precondition_frequency": 0}, "precondition_frequency"),
            ({"max_precondition_dim": 2.5}, "max_precondition_dim"),
        ],
        tolerance=ROUNDED,
    ),
    Case(
        SOAP,
        lambda: SOAP(0.01, beta_2=0.6, precondition_frequency=2, max_precondition_dim=6),
        tolerance=ROUNDED,
        name="one_sided",
    ),
    Case(
        LayerwiseLearningRate,
        layerwise,
        bad=[
            ({"optimizer": "adam"}, "optimizer"),
            ({"optimizer": keras.optimizers.SGD(), "multipliers": {"a": -1.0}}, "multipliers"),
            ({"optimizer": keras.optimizers.SGD(), "multipliers": {"(": 1.0}}, "multipliers"),
            ({"optimizer": keras.optimizers.SGD(), "default": -1}, "default"),
            (
                {"optimizer": keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD())},
                "LossScaleOptimizer",
            ),
        ],
    ),
    Case(
        LayerwiseLearningRate,
        lambda: LayerwiseLearningRate(SOAP(0.01, beta_2=0.6, precondition_frequency=3), {"bias": 0}),
        tolerance=ROUNDED,
        name="soap",
    ),
]
