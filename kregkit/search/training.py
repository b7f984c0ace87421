"""From a function that builds a model to what `search` calls."""

import copy


class build_and_fit:
    """Makes the `train` of `search` from a function that builds a compiled model.

    Args:
        build: Callable from a dictionary of parameters to a compiled `keras.Model`, or to `(model, arguments)` with a
            dictionary of arguments for `fit`, for what the parameters say of them, such as `batch_size`.
        train_data: What `fit` reads: `(x, y)`, `(x, y, sample_weight)`, or a dataset.
        validation_data: What `fit` validates on, in the same forms.
        **fit_arguments: Further arguments of `fit`. Its `verbose` defaults to 0, and its `callbacks` are deep-copied
            for each fit, since many remember.

    Returns:
        A callable `(parameters, epochs, callbacks)` that returns the `History`.

    Example:

    >>> import keras, numpy as np
    >>> def build(parameters):
    ...     model = keras.Sequential([keras.layers.Dense(1)])
    ...     model.compile(keras.optimizers.SGD(parameters["learning_rate"]), "mse")
    ...     return model, {"batch_size": 4}
    >>> x, y = np.ones((8, 2)), np.ones((8, 1))
    >>> train = build_and_fit(build, (x, y), (x, y))
    >>> sorted(train({"learning_rate": 0.1}, 1, []).history)
    ['loss', 'val_loss']
    """

    # A class, since a closure doesn't pickle: trials in fresh processes need it.
    def __init__(self, build, train_data, validation_data=None, **fit_arguments):
        if not callable(build):
            raise ValueError(f"`build` must be a function that returns a compiled model. Received: build={build!r}")
        for reserved in ("epochs", "validation_data", "x", "y"):
            if reserved in fit_arguments:
                raise ValueError(
                    f"{reserved!r} is not for `fit_arguments`: the search sets the epochs, the data come by "
                    f"`train_data` and `validation_data`. Received: {reserved}={fit_arguments[reserved]!r}"
                )
        self.build = build
        self.train_data = train_data
        self.validation_data = validation_data
        self.fit_arguments = fit_arguments

    def __call__(self, parameters, epochs, callbacks=()):
        return fit_built(
            self.build, parameters, self.train_data, self.validation_data, epochs, callbacks, self.fit_arguments
        )


def fit_built(build, parameters, train_data, validation_data, epochs, callbacks, fit_arguments):
    """Builds a model and fits it; returns the `History`."""
    built = build(dict(parameters))
    model, own = built if isinstance(built, tuple) else (built, {})
    if getattr(model, "optimizer", None) is None:
        raise ValueError(f"`build` must return a compiled model. Received: model={model!r}")
    arguments = {"verbose": 0, **fit_arguments, **own}
    others = [copy.deepcopy(callback) for callback in arguments.pop("callbacks", None) or []]
    data = train_data if isinstance(train_data, tuple) else (train_data,)
    data = dict(zip(("x", "y", "sample_weight"), data))
    return model.fit(
        **data, validation_data=validation_data, epochs=epochs, callbacks=[*callbacks, *others], **arguments
    )
