"""BatchNormalization over the batches of all replicas."""

import keras

from kregkit._core import keras_internals, rules
from kregkit._core.backends import require_tensorflow


@rules.checked(model=rules.model)
def synchronize_batch_normalization(model: keras.Model) -> list[str]:
    """Has every BatchNormalization of a model use the statistics of all replicas' batches together.

    Without it, each replica normalizes by its own part of the batch and keeps its own moving averages: on several
    workers the weights that one of them saves are not those of another, and training differs from that of one
    process. With it they are equal, for two numbers per channel and step that the replicas exchange.

    It sets `synchronized=True` on the layers, those of nested models too, as their constructor does: use it for models
    that were made without, such as those of `keras.applications`. Nothing changes without a strategy.

    Args:
        model: A `keras.Model`, best before its first `fit`; afterwards, its train function is traced anew.

    Returns:
        List of the layers' names.

    Raises:
        RuntimeError: Keras runs on another backend than TensorFlow.

    Example:

    >>> import keras
    >>> from kregkit import distribution
    >>> layers = [keras.Input((4,)), keras.layers.Dense(3), keras.layers.BatchNormalization(name="normalization")]
    >>> model = keras.Sequential(layers)
    >>> distribution.synchronize_batch_normalization(model)
    ['normalization']
    """
    require_tensorflow("synchronize_batch_normalization")
    layers = [
        layer for layer in keras_internals.flatten_layers(model) if isinstance(layer, keras.layers.BatchNormalization)
    ]
    for layer in layers:
        layer.synchronized = True
    if model.train_function is not None:
        model.make_train_function(force=True)
    return [layer.name for layer in layers]
