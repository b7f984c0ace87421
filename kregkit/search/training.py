"""From a function that builds a model to what `search` calls."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import keras

from kregkit._core.checks import check_callable, check_data, shown
from kregkit._core.types import Data
from kregkit._core.workers import worker


def build_and_fit(
    build: Callable[..., keras.Model], train_data: Data, validation_data: Data = None, **fit_arguments: Any
) -> BuildAndFit:
    """Returns the `train` of `search`, made from a function that builds a compiled model.

    Args:
        build: Callable from a dictionary of parameters to a compiled `keras.Model`, or to `(model, arguments)` with a
            dictionary of arguments for `fit` that depend on the parameters, such as `batch_size`.
        train_data: What `fit` reads: `(x, y)`, `(x, y, sample_weight)`, or a dataset.
        validation_data: What `fit` validates on, in the same forms.
        **fit_arguments: Further arguments of `fit`. Its `verbose` defaults to 0, and its `callbacks` are deep-copied
            for each fit, since many have a state.

    Returns:
        A `BuildAndFit`: a callable `(parameters, epochs, callbacks)` that returns the `History`.

    Raises:
        ValueError: `build` isn't callable, an argument of `fit` is one that the search sets, or the data are an
            iterator, which one trial uses up. One without end is allowed, with `steps_per_epoch` or `validation_steps`.

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
    return BuildAndFit(build, train_data, validation_data, **fit_arguments)


class BuildAndFit:
    """Builds a model for each setting and fits it; what `build_and_fit` returns, and takes the same arguments.

    It pickles if `build` and the data do, which trials in fresh processes need.
    """

    def __init__(
        self, build: Callable[..., keras.Model], train_data: Data, validation_data: Data = None, **fit_arguments: Any
    ) -> None:
        check_callable("build", build, num=1)
        for reserved in ("epochs", "validation_data", "x", "y"):
            if reserved in fit_arguments:
                raise ValueError(
                    f"`build_and_fit` takes no {reserved!r}: the search sets the epochs, and the data are "
                    f"`train_data` and `validation_data`. Received: {reserved}={fit_arguments[reserved]!r}"
                )
        check_data("train_data", train_data)
        check_data("validation_data", validation_data, none=True)
        for name, data, steps in (
            ("train_data", train_data, "steps_per_epoch"),
            ("validation_data", validation_data, "validation_steps"),
        ):
            # The iterators of Keras's `ImageDataGenerator` are PyDatasets; one with a number of steps may never end.
            passes = hasattr(data, "__next__") and not isinstance(data, keras.utils.PyDataset)
            if passes and fit_arguments.get(steps) is None:
                raise ValueError(
                    f"`{name}` must be readable again, since every trial reads it: pass arrays, a tf.data.Dataset or a "
                    f"keras.utils.PyDataset. Received: {name}={type(data).__name__}, which one trial uses up"
                )
        self.build = build
        self.train_data = train_data
        self.validation_data = validation_data
        self.fit_arguments = fit_arguments

    def __repr__(self) -> str:
        # Data would fill pages: only the function and what `fit` is given are as typed.
        build = getattr(self.build, "__qualname__", type(self.build).__name__)
        validation = "" if self.validation_data is None else ", <validation data>"
        arguments = "".join(f", {name}={shown(value)}" for name, value in self.fit_arguments.items())
        return f"build_and_fit({build}, <data>{validation}{arguments})"

    def __call__(
        self, parameters: dict[str, Any], epochs: int, callbacks: Sequence[keras.callbacks.Callback] = ()
    ) -> Any:
        return self.fit(*self.built(parameters), epochs, callbacks)

    def fit(
        self,
        model: keras.Model,
        own_arguments: dict[str, Any],
        epochs: int,
        callbacks: Sequence[keras.callbacks.Callback] = (),
    ) -> keras.callbacks.History:
        """Fits what `built` returned; returns the `History`."""
        arguments = {"verbose": 0, **self.fit_arguments, **own_arguments}
        if hasattr(self.train_data, "element_spec"):  # Keras can't shuffle a `tf.data.Dataset`, and warns by default
            arguments.setdefault("shuffle", False)
        others = [copy.deepcopy(callback) for callback in arguments.pop("callbacks", None) or []]
        parts = self.train_data if isinstance(self.train_data, tuple) else (self.train_data,)
        data = dict(zip(("x", "y", "sample_weight"), parts))
        arguments |= {"validation_data": self.validation_data, "callbacks": [*callbacks, *others]}
        return model.fit(**data, epochs=epochs, **arguments)

    def built(self, parameters: dict[str, Any]) -> tuple[keras.Model, dict[str, Any]]:
        """Returns `(model, fit_arguments)` for a setting."""
        built = self.build(dict(parameters))
        model, arguments = built if isinstance(built, tuple) else (built, {})
        if getattr(model, "optimizer", None) is None:
            raise ValueError(f"`build` must return a compiled model. Received: model={model!r}")
        if worker(model).count > 1:
            # Each worker would draw a trial of its own, and wait for others that train another model.
            raise ValueError(
                "The workers of a search each train trials of their own: build the model outside of a strategy of "
                f"several workers, and share the search by `storage`. Received: workers={worker(model).count}"
            )
        return model, arguments
