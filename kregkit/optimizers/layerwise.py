"""A multiple of one optimizer's learning rate for each variable."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from kregkit._core import keras_internals, rules
from kregkit._core.checks import check_number
from kregkit._core.graph import layer_paths, layers_as_called, matches_path
from kregkit._core.types import Loss, Tensor
from kregkit._core.weights import variable_path
from kregkit._core.written import Written


def _forwarded(name):
    """Returns a property that reads and writes the inner optimizer's."""

    def read(self) -> Any:
        return getattr(self.inner_optimizer, name)

    def write(self, value):
        # Keras's constructor sets its defaults before there is an inner optimizer; they are not ours to pass on.
        if "inner_optimizer" in vars(self):
            setattr(self.inner_optimizer, name, value)

    return property(read, write)


@keras.saving.register_keras_serializable(package="kregkit")
class LayerwiseLearningRate(Written, keras.optimizers.Optimizer):
    """Gives each variable its own multiple of one optimizer's learning rate.

    ```
    learning_rate(variable) = factor(variable) * optimizer.learning_rate
    ```

    Schedules and callbacks read and set the one learning rate through this optimizer as through any other.
    The update and the decoupled weight decay of a variable use its multiple of it. A factor of 0 freezes, like
    `trainable=False`: the variable and its slots stay as they are, bit for bit, its constraint is not applied, and
    `global_clipnorm` doesn't count its gradient.

    Clipping, gradient accumulation, moving averages, slots and the step counter are the wrapped optimizer's; so are
    the attributes that configure them. This wrapper goes inside a `LossScaleOptimizer`, or into a `MultiOptimizer`
    as one of its parts. From here on, use the wrapped optimizer only through the wrapper.

    Compared with `keras.optimizers.MultiOptimizer`, which gives each group of variables an optimizer, and so a
    learning rate and a step counter, of its own: callbacks and schedules drive all variables at once.

    A path has the names of all models and layers around a variable, such as `"net/backbone/conv_1/kernel"`, wherever a
    model builds the optimizer (`fit`, `train_on_batch`). Keras's own paths lack those of functional models, and of all
    models once it clones a model or loads it from a file; either path matches. A copy whose patterns no longer match
    gets its factors from the config, which holds them once the optimizer was built.

    Plain `tf.Variable`s have no path: their name stands for it.

    Args:
        optimizer: A `keras.optimizers.Optimizer`, not yet built.
        multipliers: Dictionary from a pattern to a factor >= 0. A pattern is a variable's path, such as
            `"conv_1/kernel"`, or a regular expression that matches it, such as `"backbone/.*"` or `".*/bias"`. Either
            matches the whole path or all of it behind a slash, since Keras may put a model's name before a layer's.
            The exact path goes first; a path that several expressions match is an error. Defaults to none.
        default: Float >= 0, the factor of the variables that no pattern matches. Defaults to `1.0`.
        name: String, the optimizer's name.

    Raises:
        ValueError: A factor is negative or not a number, a pattern is no regular expression, or `optimizer` is itself
            a wrapper. When the optimizer is built: a pattern matches no variable, or two match the same one; the
            message lists the paths.

    Example:

    >>> layers = [keras.Input((4,)), keras.layers.Dense(3, name="old"), keras.layers.Dense(2, name="new")]
    >>> model = keras.Sequential(layers, name="net")
    >>> optimizer = LayerwiseLearningRate(keras.optimizers.Adam(1e-3), {"old/.*": 0.1})
    >>> model.compile(optimizer, "mse")
    >>> optimizer.learning_rate = 5e-4
    >>> optimizer.build(model.trainable_variables)
    >>> optimizer.factors
    {'net/old/kernel': 0.1, 'net/old/bias': 0.1, 'net/new/kernel': 1.0, 'net/new/bias': 1.0}

    Reference: [Howard and Ruder, 2018](https://arxiv.org/abs/1801.06146), who call it discriminative fine-tuning.
    """

    def __init__(
        self,
        optimizer: keras.optimizers.Optimizer,
        multipliers: Mapping[str, float] | None = None,
        default: float = 1.0,
        name: str | None = None,
    ) -> None:
        super().__init__(learning_rate=0.0, name=name)
        if not isinstance(optimizer, keras.optimizers.Optimizer):
            raise ValueError(f"`optimizer` must be a keras.optimizers.Optimizer. Received: optimizer={optimizer!r}")
        if hasattr(optimizer, "inner_optimizer") or hasattr(optimizer, "optimizers"):
            raise ValueError(
                "`optimizer` must update weights itself: put LossScaleOptimizer and MultiOptimizer around "
                f"LayerwiseLearningRate, not inside it. Received: optimizer={optimizer!r}"
            )
        if optimizer.built:
            raise ValueError(f"`optimizer` must not have trained or been built yet. Received: optimizer={optimizer!r}")
        rules.mapping(none=True)("multipliers", multipliers)
        self.multipliers = {}
        for pattern, factor in dict(multipliers or {}).items():
            try:
                re.compile(pattern)
            except (re.error, TypeError) as error:
                raise ValueError(
                    f"`multipliers` must map paths or regular expressions to factors ({error}). "
                    f"Received: multipliers={multipliers!r}"
                ) from error
            self.multipliers[pattern] = check_number(f"multipliers[{pattern!r}]", factor, 0)
        self.default = check_number("default", default, 0)
        self._factors: tuple[float, ...] = ()
        self._names: tuple[str, ...] = ()
        self._known_factors: tuple[tuple[str, float], ...] = ()
        self.inner_optimizer = optimizer
        keras_internals.replace_updates(
            optimizer, self._scaled_update, self._parallel_scaled_update, self._scaled_decay, self._average
        )

    @classmethod
    @rules.checked()
    def by_depth(
        cls, optimizer: keras.optimizers.Optimizer, model: keras.Model, decay: float, name: str | None = None
    ) -> LayerwiseLearningRate:
        """Returns an optimizer whose rate shrinks by `decay` for every level below the model's last.

        ```
        factor(level) = decay ** (number of levels - 1 - level)
        ```

        A level is a layer with a kernel, matrix or table, together with the layers up to the next one that have
        only vectors of weights, such as normalisation. Levels are counted in the order in which the layers are called,
        inside of nested models too; a composite layer, such as attention, is one level. Weights that a model has
        outside of its layers, such as a class token, belong to the first level.

        Args:
            optimizer: A `keras.optimizers.Optimizer`, not yet built.
            model: A built model. Its trainable variables are those that get a factor.
            decay: Float in (0, 1], such as `0.8`.
            name: String, the optimizer's name.

        Raises:
            ValueError: `decay` is outside (0, 1], the model has no trainable variables, two of its variables on
                different levels share one path, or the model is a subclass that can't be called on symbolic inputs
                to see the order of its layers.

        >>> layers = [keras.Input((4,)), keras.layers.Dense(3, name="a"), keras.layers.Dense(2, name="b")]
        >>> model = keras.Sequential(layers, name="net")
        >>> LayerwiseLearningRate.by_depth(keras.optimizers.SGD(0.1), model, decay=0.5).multipliers
        {'net/a/kernel': 0.5, 'net/a/bias': 0.5, 'net/b/kernel': 1.0, 'net/b/bias': 1.0}
        """
        decay = check_number("decay", decay, 0, 1, low_open=True)
        level = 0
        levels: dict[str, Any] = {}
        for layer in layers_as_called(model):
            variables = layer.trainable_variables
            if any(len(variable.shape) > 1 for variable in variables):
                level += 1
            for variable in variables:
                # A layer used twice has the level of its first use.
                if levels.setdefault(variable.path, (level, variable))[1] is not variable:
                    raise ValueError(f"Two variables share one path: name the layers. Received: path={variable.path!r}")
        levels = {variable.path: levels.get(variable.path, (1, variable)) for variable in model.trainable_variables}
        if not levels:
            raise ValueError(f"`model` must be built and have trainable variables. Received: model={model!r}")
        multipliers = {path: decay ** (level - own) for path, (own, _) in levels.items()}
        optimizer = cls(optimizer, multipliers, name=name)
        optimizer._known_factors = tuple(multipliers.items())
        return optimizer

    built: bool
    learning_rate = _forwarded("learning_rate")
    weight_decay = _forwarded("weight_decay")
    clipnorm = _forwarded("clipnorm")
    clipvalue = _forwarded("clipvalue")
    global_clipnorm = _forwarded("global_clipnorm")
    use_ema = _forwarded("use_ema")
    ema_momentum = _forwarded("ema_momentum")
    ema_overwrite_frequency = _forwarded("ema_overwrite_frequency")
    loss_scale_factor = _forwarded("loss_scale_factor")
    gradient_accumulation_steps = _forwarded("gradient_accumulation_steps")
    iterations = _forwarded("iterations")

    @property
    def variables(self) -> list[Any]:
        return self.inner_optimizer.variables

    @property
    def factors(self) -> dict[str, float]:
        """Dictionary from each variable's path to its factor. Empty until the optimizer is built.

        The path is Keras's own, or the whole one where variables share that.
        """
        return dict(zip(self._names, self._factors))

    def build(self, var_list: Sequence[Any]) -> None:
        if self.built:
            return
        paths = [variable_path(variable) for variable in var_list]
        factors = self._recall(paths) or self._match(var_list, paths)
        self.inner_optimizer.build(var_list)
        self._factors = tuple(factors)
        full_paths = {} if len(set(paths)) == len(paths) else _paths_in_model(var_list)
        self._names = tuple(full_paths.get(id(v), path) for v, path in zip(var_list, paths))
        self.built = True

    def apply(self, grads: Sequence[Tensor], trainable_variables: Sequence[Any] | None = None) -> None:
        if not self.built and trainable_variables is not None:
            self.build(list(trainable_variables))
        if 0 in self._factors:
            variables = trainable_variables or keras_internals.optimizer_variables(self.inner_optimizer)
            trained = [pair for pair in zip(grads, variables, strict=True) if self._factor(pair[1]) != 0]
            grads, trainable_variables = [gradient for gradient, _ in trained], [variable for _, variable in trained]
        self.inner_optimizer.apply(grads, trainable_variables)

    def scale_loss(self, loss: Loss) -> Tensor:
        return self.inner_optimizer.scale_loss(loss)

    def finalize_variable_values(self, var_list: Sequence[Any]) -> None:
        self.inner_optimizer.finalize_variable_values(var_list)

    def exclude_from_weight_decay(
        self, var_list: Sequence[Any] | None = None, var_names: Sequence[str] | None = None
    ) -> None:
        self.inner_optimizer.exclude_from_weight_decay(var_list, var_names)

    def set_weights(self, weights: Any) -> None:
        self.inner_optimizer.set_weights(weights)

    def save_own_variables(self, store: Any) -> None:
        # Keras saves `inner_optimizer` as this object's child.
        pass

    def load_own_variables(self, store: Any) -> None:
        pass

    def _recall(self, paths, by_position=False):
        """Returns the factors kept in a config, if these are its variables; else None.

        Their paths may have lost the names of models in front. By position, layers may have new names too.
        """

        def same(path, known):
            if by_position:
                return path.rpartition("/")[2] == known.rpartition("/")[2]
            return f"/{path}".endswith(f"/{known}") or f"/{known}".endswith(f"/{path}")

        known = [path for path, _ in self._known_factors]
        if len(paths) == len(known) and all(map(same, paths, known)):
            return [factor for _, factor in self._known_factors]
        return None

    def _match(self, variables, paths):
        """Returns each variable's factor by the patterns."""
        # A variable's own path lacks the names of functional models around it, and of all models once it was loaded.
        full_paths = _paths_in_model(variables)
        patterns = [self._patterns(path, full_paths.get(id(v), path)) for v, path in zip(variables, paths)]
        unmatched = self._unmatched(patterns)
        if unmatched:
            factors = self._recall(paths, by_position=True)
            if factors:
                return factors
            listed = "\n  ".join(full_paths.get(id(v), path) for v, path in zip(variables, paths))
            alone = "" if full_paths else (
                "The names of nested models are known where the model builds its optimizer, as in `fit`, but not where "
                "`build` is called on a list of variables. "
            )  # fmt: skip
            raise ValueError(
                f"Every pattern must match a trainable variable's path, all of it or all behind a slash. {alone}"
                f"The paths are\n  {listed}\nReceived: multipliers={unmatched}"
            )
        for path, matched in zip(paths, patterns):
            if len(matched) > 1:
                raise ValueError(f"One pattern must match {path!r}. Received: patterns={matched}")
        return [self.multipliers[matched[0]] if matched else self.default for matched in patterns]

    def _patterns(self, path, full_path):
        """Returns the patterns that match a path; the exact path goes first."""
        if path in self.multipliers:
            return [path]
        exact = [pattern for pattern in self.multipliers if full_path.endswith(f"/{pattern}") and full_path != path]
        return exact or [p for p in self.multipliers if matches_path(p, path) or matches_path(p, full_path)]

    def _unmatched(self, patterns):
        used = {pattern for matched in patterns for pattern in matched}
        return [pattern for pattern in self.multipliers if pattern not in used]

    def _factor(self, variable):
        """Returns a variable's factor; one for a variable that Keras will refuse as unknown."""
        index = keras_internals.variable_index(self.inner_optimizer, variable)
        return 1.0 if index is None else self._factors[index]

    def _groups(self, variables):
        """Yields each factor with the positions of its variables."""
        factors = [self._factor(variable) for variable in variables]
        for factor in dict.fromkeys(factors):
            yield factor, [position for position, own in enumerate(factors) if own == factor]

    def _scaled_update(self, gradient, variable, learning_rate):
        factor = self._factor(variable)
        if factor != 1:
            learning_rate = ops.multiply(learning_rate, factor)
        type(self.inner_optimizer).update_step(self.inner_optimizer, gradient, variable, learning_rate)

    def _parallel_scaled_update(self, grads, variables, learning_rate):
        for factor, positions in self._groups(variables):
            chosen_grads = [grads[position] for position in positions]
            chosen = [variables[position] for position in positions]
            rate = ops.multiply(learning_rate, factor)
            keras_internals.update_in_parallel(self.inner_optimizer, chosen_grads, chosen, rate)

    def _scaled_decay(self, variables):
        for factor, positions in self._groups(variables):
            rate = self.learning_rate if factor == 1 else ops.multiply(self.learning_rate, factor)
            chosen = [variables[position] for position in positions]
            keras_internals.decay_weights(self.inner_optimizer, chosen, rate)

    def _average(self, variables):
        averages = keras_internals.average_weights(self.inner_optimizer, variables)
        for variable, average, factor in zip(variables, averages, self._factors):
            if factor == 0:
                # The weighted sum of equal numbers is off by a rounding.
                average.assign(variable)

    def get_config(self) -> dict[str, Any]:
        # Everything else is configured on the wrapped optimizer.
        variables = keras_internals.optimizer_variables(self.inner_optimizer)
        known = [[variable_path(variable), factor] for variable, factor in zip(variables, self._factors)]
        return {
            "name": self.name,
            "optimizer": keras.saving.serialize_keras_object(self.inner_optimizer),
            "multipliers": dict(self.multipliers),
            "default": self.default,
            "known_factors": known or [list(pair) for pair in self._known_factors],
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> LayerwiseLearningRate:
        config = dict(config)
        known = config.pop("known_factors", ())
        inner = keras.saving.deserialize_keras_object(config.pop("optimizer"), custom_objects=custom_objects)
        optimizer = cls(inner, **config)
        optimizer._known_factors = tuple((path, factor) for path, factor in known)
        return optimizer


for _name in keras_internals.wrapped_state_names():
    setattr(LayerwiseLearningRate, _name, _forwarded(_name))


def _paths_in_model(variables):
    """Returns `{id(variable): path}`, with the names of all models and layers around it, in the model being built."""
    wanted = {id(variable) for variable in variables}
    for model in keras_internals.calling_models():
        if wanted <= {id(variable) for variable in model.trainable_variables}:
            return {
                id(variable): f"{path}/{variable.name}"
                for path, layer in layer_paths(model)
                for variable in keras_internals.own_trainable_variables(layer)
            }
    return {}
