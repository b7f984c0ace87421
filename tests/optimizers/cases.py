"""The optimizers' rows of the shared table."""

import keras
from contracts import COMPILED, Case

from kregkit.optimizers import SOAP, Adam, LayerwiseLearningRate, Momentum

MULTIPLIERS = {"kernel": 0.5, ".*/bias": 2.0}


def layerwise():
    return LayerwiseLearningRate(keras.optimizers.AdamW(0.02, weight_decay=0.01), MULTIPLIERS)


# SOAP's first turn waits until the gradients of the rows' models have filled each side but for one dimension. Earlier,
# eigenvectors of what is empty are any basis of it, another one in each mode, and later gradients fall into it.
SOAP_ARGUMENTS = {"learning_rate": 0.03, "beta_2": 0.8, "precondition_frequency": 2}  # Turns at steps 6, 8, 10.

CASES = [
    Case(
        Momentum,
        lambda: Momentum(0.02, momentum=0.8),
        bad=[({"momentum": 1.0}, "momentum"), ({"momentum": -0.1}, "momentum"), ({"momentum": "fast"}, "momentum")],
    ),
    Case(Momentum, lambda: Momentum(0.02, momentum=0.8, nesterov=True, weight_decay=0.01), name="nesterov"),
    Case(Adam, lambda: Adam(0.01), bad=[({"bias_correction": "yes"}, "bias_correction")]),
    Case(Adam, lambda: Adam(0.003, bias_correction=False), modes=COMPILED, name="uncorrected"),
    Case(Adam, lambda: Adam(0.003, bias_correction=False, amsgrad=True), name="uncorrected_amsgrad"),
    Case(
        SOAP,
        lambda: SOAP(**SOAP_ARGUMENTS, weight_decay=0.01),
        bad=[
            ({"beta_1": 1.0}, "beta_1"),
            ({"beta_2": -0.5}, "beta_2"),
            ({"epsilon": -1e-8}, "epsilon"),
            ({"precondition_frequency": 0}, "precondition_frequency"),
            ({"max_precondition_dim": 2.5}, "max_precondition_dim"),
        ],
    ),
    Case(
        SOAP,
        lambda: SOAP(**SOAP_ARGUMENTS, max_precondition_dim=6),
        modes=("graph", "mixed_float16"),
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
        lambda: LayerwiseLearningRate(SOAP(**SOAP_ARGUMENTS), {"bias": 0}),
        modes=("graph", "steps_per_execution", "mirrored"),
        name="soap",
    ),
]
