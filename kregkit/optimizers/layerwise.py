"""One optimizer, one learning rate, a factor per variable."""

import re

import keras
from keras import ops

from kregkit._core.checks import check_number


class _Scaled:
    """An optimizer as variables with one factor see it: all its own, but for the learning rate."""

    def __init__(self, optimizer, factor):
        self._optimizer = optimizer
        self._factor = factor

    @property
    def learning_rate(self):
        return ops.multiply(self._optimizer.learning_rate, self._factor)

    def _get_current_learning_rate(self):
        # What the torch backend's weight decay reads.
        return self.learning_rate

    def __getattr__(self, name):
        return getattr(self._optimizer, name)


def _forwarded(name):
    """Returns a property that lives on the inner optimizer."""

    def read(self):
        return getattr(self.inner_optimizer, name)

    def write(self, value):
        # Keras's constructor sets its defaults before there is an inner optimizer; they are not ours to pass on.
        if "inner_optimizer" in vars(self):
            setattr(self.inner_optimizer, name, value)

    return property(read, write)


@keras.saving.register_keras_serializable(package="kregkit")
class LayerwiseLearningRate(keras.optimizers.Optimizer):
    """Gives each variable its own multiple of one optimizer's learning rate.

    ```
    learning_rate(variable) = factor(variable) * optimizer.learning_rate
    ```

    There is one learning rate, which schedules and callbacks read and set through this optimizer as through any other.
    The update and the decoupled weight decay of a variable use its multiple of it. A factor of 0 freezes, like
    `trainable=False`: the variable and its slots stay as they are, bit for bit, its constraint is not applied, and
    `global_clipnorm` doesn't count its gradient.

    Clipping, gradient accumulation, moving averages, slots and the step counter are the wrapped optimizer's; so are
    the attributes that configure them. This wrapper goes inside a `LossScaleOptimizer`, or into a `MultiOptimizer`
    as one of its parts. From here on, use the wrapped optimizer only through the wrapper.

    Compared with `keras.optimizers.MultiOptimizer`, which gives each group of variables an optimizer, and so a
    learning rate and a step counter, of its own: callbacks and schedules drive all variables at once.

    Keras drops the names of a model and of the models inside it from the paths when it loads a file. So a file keeps
    each variable's factor beside the patterns; to have it so, save after the optimizer was built, which `fit` does.

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

    def __init__(self, optimizer, multipliers=None, default=1.0, name=None):
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
        self._factors = ()
        self._known_factors = ()
        self.inner_optimizer = optimizer
        # Instance attributes shadow the class's methods: everything else in the optimizer's `apply` (clipping,
        # accumulation, constraints, averages) stays its own, on every backend and under every strategy.
        optimizer._apply_weight_decay = self._apply_scaled_weight_decay
        if hasattr(optimizer, "_parallel_update_step"):
            # The torch backend updates all variables in one call.
            optimizer._parallel_update_step = self._parallel_scaled_update_step
        else:
            optimizer.update_step = self._scaled_update_step
        optimizer._update_model_variables_moving_average = self._update_moving_average

    @classmethod
    def by_depth(cls, optimizer, model, decay, name=None):
        """Returns an optimizer whose rate shrinks by `decay` for every level below the model's last.

        ```
        factor(level) = decay ** (number of levels - 1 - level)
        ```

        A level is a layer with a kernel, matrix or table, together with the layers up to the next one that have
        only vectors of weights, such as normalisation. Levels are counted in the order of `model.layers`, inside of
        nested models too; a composite layer, such as attention, is one level.

        Args:
            optimizer: A `keras.optimizers.Optimizer`, not yet built.
            model: A built model. Its trainable variables are those that get a factor.
            decay: Float in (0, 1], such as `0.8`.
            name: String, the optimizer's name.

        Raises:
            ValueError: `decay` is outside (0, 1], the model has no trainable variables, or two of its variables on
                different levels share one path.

        >>> layers = [keras.Input((4,)), keras.layers.Dense(3, name="a"), keras.layers.Dense(2, name="b")]
        >>> model = keras.Sequential(layers, name="net")
        >>> LayerwiseLearningRate.by_depth(keras.optimizers.SGD(0.1), model, decay=0.5).multipliers
        {'net/a/kernel': 0.5, 'net/a/bias': 0.5, 'net/b/kernel': 1.0, 'net/b/bias': 1.0}
        """
        decay = check_number("decay", decay, 0, 1, low_open=True)
        level, levels = 0, {}
        for layer in _layers(model):
            variables = layer.trainable_variables
            if any(len(variable.shape) > 1 for variable in variables):
                level += 1
            for variable in variables:
                # A layer used twice has the level of its first use.
                if levels.setdefault(variable.path, (level, variable))[1] is not variable:
                    raise ValueError(f"Two variables share one path: name the layers. Received: path={variable.path!r}")
        if not levels:
            raise ValueError(f"`model` must be built and have trainable variables. Received: model={model!r}")
        multipliers = {path: decay ** (level - own) for path, (own, _) in levels.items()}
        optimizer = cls(optimizer, multipliers, name=name)
        optimizer._known_factors = tuple(multipliers.items())
        return optimizer

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
    _iterations = _forwarded("_iterations")
    _model_variables_moving_average = _forwarded("_model_variables_moving_average")
    _trainable_variables = _forwarded("_trainable_variables")

    @property
    def variables(self):
        return self.inner_optimizer.variables

    @property
    def factors(self):
        """Dictionary from each variable's path to its factor. Empty until the optimizer is built."""
        return {variable.path: factor for variable, factor in zip(self._trainable_variables, self._factors)}

    def build(self, var_list):
        if self.built:
            return
        paths = [variable.path for variable in var_list]
        factors = tuple(self._recall(paths) or self._match(paths))
        self.inner_optimizer.build(var_list)
        self._factors = factors
        self._trainable_variables_indices = self.inner_optimizer._trainable_variables_indices
        self.built = True

    def apply(self, grads, trainable_variables=None):
        if not self.built and trainable_variables is not None:
            self.build(list(trainable_variables))
        if 0 in self._factors:
            variables = list(self._trainable_variables if trainable_variables is None else trainable_variables)
            self._check_variables_are_known(variables)
            trained = [pair for pair in zip(grads, variables, strict=True) if self._factor(pair[1]) != 0]
            grads, trainable_variables = ([pair[place] for pair in trained] for place in (0, 1))
        self.inner_optimizer.apply(grads, trainable_variables)

    def scale_loss(self, loss):
        return self.inner_optimizer.scale_loss(loss)

    def finalize_variable_values(self, var_list):
        self.inner_optimizer.finalize_variable_values(var_list)

    def exclude_from_weight_decay(self, var_list=None, var_names=None):
        self.inner_optimizer.exclude_from_weight_decay(var_list, var_names)

    def set_weights(self, weights):
        self.inner_optimizer.set_weights(weights)

    def save_own_variables(self, store):
        # Keras saves `inner_optimizer` as this object's child.
        pass

    def load_own_variables(self, store):
        pass

    def _recall(self, paths):
        """Returns the factors kept in a file, if these are its variables under their own or shortened paths."""

        def same(path, known):
            return f"/{path}".endswith(f"/{known}") or f"/{known}".endswith(f"/{path}")

        known = [path for path, _ in self._known_factors]
        if len(paths) == len(known) and all(map(same, paths, known)):
            return [factor for _, factor in self._known_factors]
        return None

    def _match(self, paths):
        """Returns each path's factor."""
        used = set()
        factors = []
        for path in paths:
            if path in self.multipliers:
                found = [path]
            else:
                found = [p for p in self.multipliers if re.fullmatch(f"(?:.*/)?(?:{p})", path)]
            if len(found) > 1:
                raise ValueError(f"One pattern must match {path!r}. Received: patterns={found}")
            used.update(found)
            factors.append(self.multipliers[found[0]] if found else self.default)
        unmatched = [pattern for pattern in self.multipliers if pattern not in used]
        if unmatched:
            listed = "\n  ".join(paths)
            raise ValueError(
                "Every pattern must match a trainable variable's path, all of it or all behind a slash. "
                f"The paths are\n  {listed}\nReceived: multipliers={unmatched}"
            )
        return factors

    def _factor(self, variable):
        return self._factors[self._get_variable_index(variable)]

    def _groups(self, variables):
        """Yields each factor with the positions of its variables."""
        factors = [self._factor(variable) for variable in variables]
        for factor in dict.fromkeys(factors):
            yield factor, [position for position, own in enumerate(factors) if own == factor]

    def _scaled_update_step(self, gradient, variable, learning_rate):
        factor = self._factor(variable)
        if factor != 1:
            learning_rate = ops.multiply(learning_rate, factor)
        type(self.inner_optimizer).update_step(self.inner_optimizer, gradient, variable, learning_rate)

    def _parallel_scaled_update_step(self, grads, variables, learning_rate):
        inner = self.inner_optimizer
        for factor, positions in self._groups(variables):
            type(inner)._parallel_update_step(
                inner,
                [grads[position] for position in positions],
                [variables[position] for position in positions],
                ops.multiply(learning_rate, factor),
            )

    def _apply_scaled_weight_decay(self, variables):
        inner = self.inner_optimizer
        for factor, positions in self._groups(variables):
            view = inner if factor == 1 else _Scaled(inner, factor)
            type(inner)._apply_weight_decay(view, [variables[position] for position in positions])

    def _update_moving_average(self, variables):
        inner = self.inner_optimizer
        type(inner)._update_model_variables_moving_average(inner, variables)
        for variable, average, factor in zip(variables, self._model_variables_moving_average, self._factors):
            if factor == 0:
                # The weighted sum of equal numbers is off by a rounding.
                average.assign(variable)

    def get_config(self):
        # Everything else is configured on the wrapped optimizer.
        known = [(variable.path, factor) for variable, factor in zip(self._trainable_variables, self._factors)]
        return {
            "name": self.name,
            "optimizer": keras.saving.serialize_keras_object(self.inner_optimizer),
            "multipliers": dict(self.multipliers),
            "default": self.default,
            "known_factors": [list(pair) for pair in known or self._known_factors],
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        known = config.pop("known_factors", ())
        inner = keras.saving.deserialize_keras_object(config.pop("optimizer"), custom_objects=custom_objects)
        optimizer = cls(inner, **config)
        optimizer._known_factors = tuple((path, factor) for path, factor in known)
        return optimizer


def _layers(model):
    """Yields the layers of `model` in order, those of nested models in place of the model."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _layers(layer)
        else:
            yield layer
