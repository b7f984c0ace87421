"""Whether weights are as their initializers made them."""

import keras
import numpy as np

from kregkit._core import keras_internals

_RANDOM = (
    keras.initializers.RandomNormal,
    keras.initializers.RandomUniform,
    keras.initializers.TruncatedNormal,
    keras.initializers.VarianceScaling,
)
_FIXED = (keras.initializers.Zeros, keras.initializers.Ones, keras.initializers.Constant)
# Weights and the names of their layers' initializers.
_INITIALIZERS = {
    "kernel": "kernel_initializer",
    "bias": "bias_initializer",
    "embeddings": "embeddings_initializer",
    "gamma": "gamma_initializer",
    "beta": "beta_initializer",
    "moving_mean": "moving_mean_initializer",
    "moving_variance": "moving_variance_initializer",
}


def is_fresh(layer):
    """Returns whether a layer's weights look untrained; None where they can't tell.

    Biases, scales and moving statistics begin at a constant: one that has left it was trained. Where a layer has none,
    its kernel is compared with the spread that its initializer gives (drawn anew).
    """
    own = [*keras_internals.own_trainable_variables(layer), *layer.non_trainable_variables]
    verdicts = {}
    for variable in own:
        initializer = getattr(layer, _INITIALIZERS.get(variable.name, ""), None)
        if initializer is None:
            continue
        values = keras.ops.convert_to_numpy(variable.value).astype("float64")
        if np.size(getattr(initializer, "value", 0)) > 1:
            # A whole array, such as word vectors from elsewhere.
            verdicts[variable.name] = False
        elif isinstance(initializer, _FIXED):
            start = keras.ops.convert_to_numpy(initializer(variable.shape, dtype="float32"))
            verdicts[variable.name] = bool(np.allclose(values, start, rtol=1e-5, atol=1e-7))
        elif isinstance(initializer, _RANDOM) and values.size >= 16:
            verdicts[variable.name] = _same_distribution(values, initializer, variable.shape)
    if verdicts.get("kernel") is False or verdicts.get("embeddings") is False:
        return False
    fixed = [verdict for name, verdict in verdicts.items() if name not in ("kernel", "embeddings")]
    if fixed:
        return all(fixed)
    return all(verdicts.values()) if verdicts else None


def _same_distribution(values, initializer, shape):
    drawn = type(initializer).from_config({**initializer.get_config(), "seed": 20011})
    other = keras.ops.convert_to_numpy(drawn(shape, dtype="float32")).astype("float64")
    # The variances of two samples of n normal numbers differ by a factor of 1 +- 2 / sqrt(n).
    ratio = values.var() / max(other.var(), 1e-30)
    reach = np.abs(values).max() / max(np.abs(other).max(), 1e-30)
    return bool(abs(np.log(max(ratio, 1e-30))) < 10 / np.sqrt(values.size) and reach < 1.5)
