"""The optimizers that do the work inside wrappers such as `LossScaleOptimizer`."""


def leaf_optimizers(optimizer):
    """Returns the optimizers that update weights, behind any wrappers, in a fixed order.

    `LossScaleOptimizer` and kregkit's own wrappers hold an `inner_optimizer`; `MultiOptimizer` holds `optimizers`.

    >>> import keras
    >>> sgd = keras.optimizers.SGD()
    >>> leaf_optimizers(keras.optimizers.LossScaleOptimizer(sgd)) == [sgd]
    True
    """
    inner = getattr(optimizer, "inner_optimizer", None)
    if inner is not None:
        return leaf_optimizers(inner)
    several = getattr(optimizer, "optimizers", None)
    if several is not None:
        return [leaf for one in several for leaf in leaf_optimizers(one)]
    return [optimizer]
