"""The Laplace approximation of the last layer: how far its weights could be from the trained ones."""

import keras
import numpy as np

from kregkit._core.backends import require_tensorflow
from kregkit._core.batches import read_batches
from kregkit._core.checks import check_choice, check_data, check_number
from kregkit._core.keras_internals import flatten_layers
from kregkit._core.output_kinds import output_tasks
from kregkit._core.replacing import replaced_all
from kregkit.inference._architecture import Architecture, as_tensors, current_values, with_masks
from kregkit.inference._averaging import probabilities
from kregkit.inference._labelled import matched
from kregkit.inference._scores import per_decision, target_distributions
from kregkit.inference.posterior import WeightPosterior

# Up to so many weights the curvature is one matrix.
_MOST_FULL = 2000


def laplace(
    model: keras.Model,
    data: object,
    structure: str = "auto",
    prior_precision: float | None = None,
    noise_std: float | None = None,
    outputs: object = "auto",
    batch_size: int | None = None,
) -> WeightPosterior:
    """Returns a Gaussian over the weights of the last Dense layer, by the curvature of the loss (Laplace).

    With `theta` the layer's kernel and bias, `f` what it computes (logits, or values), the other layers fixed and a
    prior `N(0, 1 / prior_precision)` on each weight,

        covariance = (H + prior_precision)^-1,   H = sum_n J_n' L_n J_n,

    with `J` the derivative of `f` by `theta` and `L` that of the loss by `f`, twice: `diag(p) - p p'` for a softmax,
    `p (1 - p)` for a sigmoid, `1 / noise_std^2` for values. The mean is `theta` as it was trained. For values and
    features that the other layers give this is exactly the posterior of Bayesian linear regression, if `theta` is its
    mean. `prior_precision`, and for values `noise_std`, maximise the marginal likelihood

        log p(data) = log p(data | theta) - prior_precision |theta|^2 / 2 + (size log prior_precision
                      - log det(H + prior_precision)) / 2

    Args:
        model: A built Keras model with one output, which a Dense layer computes, with or without a softmax or sigmoid
            behind it. It isn't changed.
        data: `(x, y)` or `(x, y, sample_weight)` of arrays, or a data set of such batches: what it was trained on.
        structure: `"full"`, `"kronecker"` (`H` as the product of the features' second moments and the sum of `L`,
            exact for values), or `"auto"`: full up to 2000 weights. Defaults to `"auto"`.
        prior_precision: Float > 0. Defaults to the one of the largest marginal likelihood.
        noise_std: Float > 0, the standard deviation of values around the model's. Defaults to the one of the largest
            marginal likelihood.
        outputs: What the output is, as in `Ensemble`.
        batch_size: Integer, for arrays. Defaults to 32.

    Returns:
        A `WeightPosterior`; its `information` holds `"prior_precision"`, `"log_marginal_likelihood"` and, for values,
        `"noise_std"`.

    Raises:
        ValueError: An argument is none of these, or no Dense layer computes the output.

    Example:

    >>> import keras, numpy as np
    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    >>> model.compile(loss="mse")
    >>> x = np.array([[1.0], [2.0], [2.0]])
    >>> posterior = laplace(model, (x, x), prior_precision=1.0, noise_std=3.0)
    >>> print(posterior.covariance().round(6))  # 1 / (9 / 3^2 + 1)
    [[0.5]]

    Reference: [Daxberger et al., 2021](https://arxiv.org/abs/2106.14806)
    """
    require_tensorflow("laplace")
    check_choice("structure", structure, ("auto", "full", "kronecker"))
    check_data("data", data)
    for name, value in (("prior_precision", prior_precision), ("noise_std", noise_std)):
        if value is not None:
            check_number(name, value, 0, low_open=True)
    if not isinstance(model, keras.Model) or not model.built:
        raise ValueError(f"`model` must be a built Keras model. Received: model={model!r}")
    layers = [layer for layer in flatten_layers(model) if isinstance(layer, keras.layers.Dense) and layer.built]
    recorder, curvature = _Recorder(model, layers), None
    for x, y, weight in read_batches(data, batch_size):
        if y is None:
            raise ValueError("`data` must hold targets: (x, y) or batches of them")
        output, masks, features_by_layer = recorder(x)
        if curvature is None:
            task, layer = _last_dense(model, layers, output, features_by_layer, outputs)
            curvature = _Curvature(layer, task, structure)
        (y,), (weight,) = matched(y, weight, masks, output, model)
        curvature.add(_flat_features(features_by_layer[layers.index(layer)], layer), y, output, weight)
    if curvature is None:
        raise ValueError("`data` is empty")
    if not curvature.total > 0:
        raise ValueError(
            f"All examples of `data` have weight 0, or are masked. Received: weights that sum to {curvature.total:g}"
        )
    return curvature.posterior(model, prior_precision, noise_std)


class _Recorder:
    """Runs a model in inference mode and returns its output, its masks and what went into each of some layers."""

    def __init__(self, model, layers):
        self.architecture, self.layers = Architecture(model), layers
        self.values = current_values(model)
        self._traced = self.architecture.traced(self._run)

    def __call__(self, x):
        results = self._traced(self.values, as_tensors(x))
        output, masks, inputs = keras.tree.map_structure(
            lambda tensor: None if tensor is None else keras.ops.convert_to_numpy(tensor), results
        )
        return output, keras.tree.flatten(masks), inputs

    def _run(self, values, x):
        met = [[] for _ in self.layers]

        def recording(layer, record):
            original = layer.call

            def call(inputs, *arguments, **options):
                record.append(inputs)
                return original(inputs, *arguments, **options)

            return layer, "call", call

        with self.architecture.scope(values), replaced_all([*map(recording, self.layers, met)]):
            output = self.architecture.model(x, **self.architecture.arguments)
        output, masks = with_masks(output)
        # A layer that is used more than once has no one place.
        return output, masks, [record[0] if len(record) == 1 else None for record in met]


def _flat_features(features, layer):
    """Returns float64 features `(decisions, size)`, with a last column of ones where the layer has a bias."""
    features = np.asarray(features, "float64").reshape(-1, features.shape[-1])
    return np.concatenate([features, np.ones((len(features), 1))], axis=1) if layer.use_bias else features


def _weights(layer):
    """Returns kernel and bias as one float64 matrix `(features, outputs)`."""
    parts = [layer.kernel, *([layer.bias[None]] if layer.use_bias else [])]
    return np.concatenate([np.asarray(keras.ops.convert_to_numpy(part), "float64") for part in parts])


def _last_dense(model, layers, output, features_by_layer, outputs):
    """Returns the output's `Task` and the layer whose results are its logits or values."""
    if not keras.tree.is_nested(output):
        (task,) = output_tasks(model, output, outputs)
        for layer, features in reversed(list(zip(layers, features_by_layer))):
            if features is not None and layer.units == output.shape[-1] and _draws_as_one(model, layer):
                f = _flat_features(features, layer) @ _weights(layer)
                expected = f if task.kind != "probabilities" else _probabilities(f, task.link)
                result = np.asarray(output, "float64").reshape(-1, output.shape[-1])
                if f.shape == result.shape and _is_close(expected, result, layer.compute_dtype):
                    return task, layer
    raise ValueError(
        f"`laplace` needs a model with one output that a Dense layer computes, with at most a softmax or sigmoid "
        f"behind it, from a kernel that is one floating-point weight (no LoRA, no quantisation). Model {model.name!r} "
        f"isn't one. Received: Dense layers={[layer.name for layer in layers]}"
    )


def _draws_as_one(model, layer):
    """Returns whether a layer computes by a kernel that is one of the model's weights: not by LoRA or 8-bit numbers."""
    return any(weight is layer.kernel for weight in model.weights) and keras.backend.is_float_dtype(layer.kernel.dtype)


def _is_close(expected, result, dtype):
    """Returns whether two results differ by no more than the layer's type rounds."""
    rounding = {"bfloat16": 2.0**-8, "float16": 2.0**-11}.get(dtype, 0.0)
    return np.allclose(expected, result, rtol=1e-2, atol=1e-3 + 8 * rounding * max(float(np.abs(expected).max()), 1.0))


def _probabilities(f, link):
    from kregkit._core.output_kinds import Task

    return keras.ops.convert_to_numpy(probabilities(keras.ops.convert_to_tensor(f), Task("logits", link)))


class _Curvature:
    """Sums up the second derivative of the loss by the last layer's weights, and the loss itself."""

    def __init__(self, layer, task, structure):
        self.layer, self.task, self.theta = layer, task, _weights(layer)
        rows, columns = self.theta.shape
        values = task.kind == "values"
        # For values the product is exact.
        self.full = not values and (structure == "full" or (structure == "auto" and rows * columns <= _MOST_FULL))
        self.moments = np.zeros((rows, rows))
        self.slopes = np.zeros((columns, columns))
        self.blocks = np.zeros((rows, columns, rows, columns)) if self.full else None
        self.total, self.loss = 0.0, 0.0

    def add(self, features, y, output, weight):
        """Adds a batch: its features `(decisions, rows)`, targets, the model's outputs and the examples' weights."""
        f = features @ self.theta
        num, columns = f.shape
        weight = per_decision(weight, num)
        if self.task.kind == "values":
            self.loss += float(weight @ ((np.asarray(y, "float64").reshape(f.shape) - f) ** 2).sum(axis=1))
            second = np.broadcast_to(np.eye(columns), (num, columns, columns))
        else:
            p = _probabilities(f, self.task.link)
            target = target_distributions(y, output, self.task)
            if self.task.link == "sigmoid":
                target = target[:, 1].reshape(f.shape)
                losses = np.logaddexp(0.0, f) - target * f
                second = np.eye(columns) * (p * (1 - p))[:, :, None]
            else:
                losses = -target * np.log(np.maximum(p, 1e-300))
                second = np.eye(columns) * p[:, :, None] - p[:, :, None] * p[:, None, :]
            self.loss += float(weight @ losses.sum(axis=1))
        second = weight[:, None, None] * second
        self.moments += (features * weight[:, None]).T @ features
        self.slopes += second.sum(axis=0)
        self.total += float(weight.sum())
        if self.full:
            for one in range(columns):
                for other in range(one + 1):
                    if second[:, one, other].any():
                        block = (features * second[:, one, other, None]).T @ features
                        self.blocks[:, one, :, other] += block
                        if other < one:
                            self.blocks[:, other, :, one] += block.T

    def _spectrum(self):
        """Returns eigenvalues of the curvature, as a matrix, and the two rotations to its axes."""
        if self.full:
            values, vectors = np.linalg.eigh(self.blocks.reshape(self.theta.size, self.theta.size))
            return np.maximum(values, 0.0)[:, None], (vectors, np.ones((1, 1)))
        (a, left), (b, right) = np.linalg.eigh(self.moments / self.total), np.linalg.eigh(self.slopes)
        return np.maximum(a, 0.0)[:, None] * np.maximum(b, 0.0)[None], (left, right)

    def posterior(self, model, prior_precision, noise_std):
        """Returns the `WeightPosterior`, for the given numbers or the ones of the largest marginal likelihood."""
        spectrum, rotations = self._spectrum()
        values = self.task.kind == "values"
        size, squares, targets = self.theta.size, float((self.theta**2).sum()), self.total * self.theta.shape[1]

        def evidence(precision, std):
            fit = -self.loss
            if values:
                fit = -0.5 * self.loss / std**2 - 0.5 * targets * np.log(2 * np.pi * std**2)
            eigenvalues = spectrum / std**2 if values else spectrum
            return (
                fit
                - 0.5 * precision * squares
                + 0.5 * (size * np.log(precision) - np.log(eigenvalues + precision).sum())
            )

        fixed = prior_precision, (noise_std if values else 1.0)
        precision, std = _best(evidence, fixed, max(np.sqrt(self.loss / targets), 1e-6) if values else 1.0)
        weights = model.weights
        own = [self.layer.kernel, *([self.layer.bias] if self.layer.use_bias else [])]
        indices = [next(i for i, weight in enumerate(weights) if weight is variable) for variable in own]
        information = {"prior_precision": precision, "log_marginal_likelihood": float(evidence(precision, std))}
        information |= {"structure": "full" if self.full else "kronecker"}
        information |= {"noise_std": std} if values else {}
        diagonal = 1.0 / ((spectrum / std**2 if values else spectrum) + precision)
        shapes = [tuple(variable.shape) for variable in own]
        arrays = (self.theta.reshape(-1), diagonal.reshape(-1))
        return WeightPosterior(indices, shapes, *arrays, rotations=rotations, information=information)


def _best(evidence, fixed, std):
    """Returns the precision and the standard deviation of the largest evidence, of which some are fixed."""
    from scipy import optimize

    free = [index for index, value in enumerate(fixed) if value is None]
    start = [np.log(1.0 if value is None else value) for value in (fixed[0], fixed[1] if fixed[1] is not None else std)]

    def objective(logs):
        numbers = list(start)
        for index, value in zip(free, logs):
            numbers[index] = value
        return -evidence(*np.exp(numbers))

    bounds = [[(-15.0, 20.0), (start[1] - 10.0, start[1] + 10.0)][index] for index in free]
    if len(free) == 1:
        # From the best of a coarse grid on, since the evidence may have more than one maximum.
        grid = np.linspace(*bounds[0], 71)
        best = grid[int(np.argmin([objective([value]) for value in grid]))]
        step = grid[1] - grid[0]
        found = [optimize.minimize_scalar(lambda v: objective([v]), bounds=(best - step, best + step)).x]
    elif free:
        starts = [[precision, start[1]] for precision in (-5.0, 0.0, 5.0)]
        options = {"xatol": 1e-6, "fatol": 1e-9, "maxiter": 2000}
        tries = [
            optimize.minimize(objective, one, method="Nelder-Mead", bounds=bounds, options=options) for one in starts
        ]
        found = min(tries, key=lambda each: each.fun).x
    else:
        found = []
    numbers = list(start)
    for index, value in zip(free, found):
        numbers[index] = float(value)
    return tuple(float(value) for value in np.exp(numbers))
