"""Full-batch optimisation by SciPy's quasi-Newton and Newton solvers."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import keras
import numpy as np

from kregkit._core import keras_internals, rules
from kregkit._core.backends import require_tensorflow
from kregkit._core.checks import check_choice, check_integer
from kregkit._core.interrupts import uninterrupted
from kregkit._core.types import ArrayLike, Data, Loss
from kregkit.optimizers._solver import METHODS, check_constant, interrupted_result, objective_of, solve


@rules.checked(
    model=rules.model,
    x=rules.data,
    callbacks=rules.any_of(rules.callback, rules.entries(rules.callback, none=True, empty=True)),
    tolerance=rules.number(0, none=True),
    options=rules.mapping(none=True),
    jit_compile=rules.boolean,
    verbose=rules.any_of(rules.choice("auto"), rules.verbose),
)
def minimize(
    model: keras.Model,
    x: Data,
    y: Data = None,
    loss: Loss = None,
    method: str = "L-BFGS-B",
    max_iterations: int = 100,
    batch_size: int | None = None,
    callbacks: Sequence[keras.callbacks.Callback] | None = None,
    *,
    sample_weight: ArrayLike | None = None,
    tolerance: float | None = None,
    options: dict[str, Any] | None = None,
    initial_iteration: int = 0,
    stochastic: Literal["refuse", "freeze", "inference"] = "refuse",
    batch_normalization: Literal["inference", "training"] = "inference",
    seed: int = 0,
    jit_compile: bool = False,
    verbose: int | str = 1,
) -> keras.callbacks.History:
    """Minimises a model's full-batch loss over its trainable weights.

    ```
    f(W) = mean over all examples of sample_weight * loss(y, model(x; W)) + regularisation losses
    ```

    Loss and gradient are compiled once, and with `batch_size` accumulated over chunks inside the graph: the same
    full-batch numbers, to rounding, with a chunk's activations in memory. The Newton methods multiply the exact Hessian
    with vectors and never store it. For problems with little noise and all data at hand (small networks, fine fits,
    physics, style transfer); on mini-batches these methods are poor.

    Each iteration is an epoch to the callbacks: `on_epoch_begin` and `on_epoch_end` are called with the weights of that
    iterate in place, and the logs `loss`, `gradient_norm` (Euclidean) and `evaluations` (of the loss and its gradient
    so far, or of the Hessian's products). What a callback does to the weights counts in `on_train_begin` and
    `on_train_end`; in between the solver has its own. There are no batches, so that callbacks that work in the train
    step are refused. `model.stop_training = True` stops. Ctrl-C ends it as it ends `fit`, by a `KeyboardInterrupt`
    and without `on_train_end`, so that backups stay: the last finished iterate is in the model, and `model.history`
    holds all until then. To go on, call again with `initial_iteration`, or give both calls a
    `keras.callbacks.BackupAndRestore`, which asks for a compiled model: weights and iteration numbers continue; the
    curvature that L-BFGS and BFGS have learnt, and a trust region's size, start anew.

    Args:
        model: A Keras model. One that isn't built yet is built on the data, as `fit` does.
        x: Array, or structure of arrays, of all inputs.
        y: Array, or structure of arrays, of all targets, or `None` where the loss needs none. Defaults to `None`.
        loss: Loss name, function `(y, prediction)` or `keras.losses.Loss`. Defaults to the compiled model's.
        method: String, one of SciPy's: `"L-BFGS-B"` (memory of 10 steps), `"BFGS"` and `"CG"`, which use gradients
            (`"BFGS"` stores a matrix of the square of the number of weights); `"Newton-CG"`, `"trust-ncg"` and
            `"trust-krylov"`, which use Hessian-vector products too. Defaults to `"L-BFGS-B"`.
        max_iterations: Integer >= 1, the iteration number at which to stop. Defaults to `100`.
        batch_size: Integer >= 1, examples per chunk, or `None` for all at once. Changes memory, not the result.
        callbacks: List of `keras.callbacks.Callback`.
        sample_weight: Array of a weight for each example, as in `fit`: the weighted losses are summed and divided by
            the number of examples, so that a constant one scales the loss. For a compiled loss of several outputs, or
            one for each step or pixel, whatever `fit` takes. Defaults to 1 for all.
        tolerance: Float, SciPy's `tol`. Defaults to the method's own. A float32 model resolves relative changes of
            its loss of about 1e-7: where the line search can't see progress any more, it stops.
        options: Dictionary of the method's further options, as in `scipy.optimize.minimize`.
        initial_iteration: Integer >= 0, the number of the first iteration. Defaults to `0`.
        stochastic: What to do with layers that draw random numbers: `"refuse"`, `"freeze"` (training mode, with the
            same draws at every evaluation) or `"inference"`. Defaults to `"refuse"`.
        batch_normalization: `"inference"` (moving statistics) or `"training"` (statistics of the full batch, and so
            without `batch_size`; they become the moving statistics). Defaults to `"inference"`.
        seed: Integer >= 0, the draws of `stochastic="freeze"`. The layers' own seeds are restored. Defaults to `0`.
        jit_compile: Boolean, whether XLA compiles the evaluations. Defaults to `False`.
        verbose: 0 for silence, 1 or `"auto"` for a progress line and the reason for an early end. Defaults to `1`.

    Returns:
        A `keras.callbacks.History`, with SciPy's `OptimizeResult` as its attribute `result`. Its dictionary `history`
        is empty where the solver finds nothing to improve at the start.

    Raises:
        ValueError: An argument is wrong; the model draws random numbers and `stochastic` is `"refuse"`; the loss is not
            finite, or two evaluations at the same weights differ. The weights are unchanged then.
        RuntimeError: Keras doesn't run on TensorFlow.

    Example:

    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    >>> history = minimize(model, np.array([[0.0], [1.0], [2.0]]), np.array([[1.0], [3.0], [5.0]]), "mse", verbose=0)
    >>> [round(float(w.squeeze()), 3) for w in model.get_weights()]
    [2.0, 1.0]

    Reference: [Liu and Nocedal, 1989](https://doi.org/10.1007/BF01589116); [Pearlmutter,
    1994](https://doi.org/10.1162/neco.1994.6.1.147) for the Hessian-vector products.
    """
    require_tensorflow("minimize")
    check_choice("method", method, METHODS)
    check_integer("initial_iteration", initial_iteration, 0)
    check_integer("max_iterations", max_iterations, 1)
    if max_iterations <= initial_iteration:
        raise ValueError(
            "`initial_iteration` must be below `max_iterations`, the number at which to stop. "
            f"Received: initial_iteration={initial_iteration}, max_iterations={max_iterations}"
        )
    hooked = [type(callback).__name__ for callback in keras.tree.flatten(callbacks) if hasattr(callback, "before_step")]
    if hooked:
        raise ValueError(f"`callbacks` must not work in the train step: there is none. Received: callbacks={hooked}")
    with objective_of(
        model, x, y, loss, batch_size, stochastic, batch_normalization, seed, jit_compile, sample_weight
    ) as objective:
        start = objective.get()
        known = check_constant(objective, start)
        listed = keras.callbacks.CallbackList(
            callbacks, add_history=True, model=model, epochs=max_iterations, steps=1, verbose=verbose
        )
        model.stop_training = False
        # An earlier fit may have left it there.
        keras_internals.clear_initial_epoch(model)
        listed.on_train_begin()
        initial_iteration = keras_internals.initial_epoch(model) or initial_iteration
        keras_internals.clear_initial_epoch(model)
        restored = objective.get()
        if not np.array_equal(restored, start):
            start, known = restored, check_constant(objective, restored)
        objective.keeps_statistics = True
        latest, result = start, None

        def report(iteration, vector, logs):
            nonlocal latest
            latest = vector.copy()
            objective.set_with_statistics(vector)
            listed.on_epoch_end(iteration, dict(logs))
            if not model.stop_training and iteration + 1 < max_iterations:
                listed.on_epoch_begin(iteration + 1)
            return model.stop_training

        if initial_iteration < max_iterations:
            listed.on_epoch_begin(initial_iteration)
            iterations = range(initial_iteration, max_iterations)
            try:
                result = solve(objective, start, known, method, iterations, report, tolerance, options, verbose)
                latest = result.x
            finally:
                with uninterrupted():
                    objective.set_with_statistics(latest)
                    model.history.result = result
        listed.on_train_end()
    model.history.result = result
    return model.history


@rules.checked(
    f=rules.function(num=1),
    x0=rules.finite_tensor,
    callback=rules.function(none=True, num=3),
    bounds=rules.entries(none=True),
    tolerance=rules.number(0, none=True),
    options=rules.mapping(none=True),
    jit_compile=rules.boolean,
    verbose=rules.any_of(rules.choice("auto"), rules.verbose),
)
def minimize_function(
    f: Callable[[Any], Any],
    x0: ArrayLike,
    method: str = "L-BFGS-B",
    max_iterations: int = 100,
    callback: Callable[..., Any] | None = None,
    *,
    bounds: Any = None,
    tolerance: float | None = None,
    options: dict[str, Any] | None = None,
    jit_compile: bool = False,
    verbose: int | str = 1,
) -> Any:
    """Minimises a scalar function of one tensor, such as a style-transfer loss of an image.

    Args:
        f: Callable from a tensor with the shape and dtype of `x0` to a scalar tensor, differentiable by TensorFlow. It
            is traced once.
        x0: Array of floats, where to start.
        method: As in `minimize`.
        max_iterations: Integer >= 1. Defaults to `100`.
        callback: Callable `(iteration, x, logs)`, called once per iteration; returning `True` stops. `logs` are those
            of `minimize`.
        bounds: Tuple `(low, high)` of floats for all entries; only with `"L-BFGS-B"`. Defaults to none.
        tolerance, options, jit_compile, verbose: As in `minimize`.

    Ctrl-C ends it with what there is: the result of the last finished iteration, with `success=False` and a `message`
    that says so. Before the first iteration has ended there is none, and `KeyboardInterrupt` is raised.

    Returns:
        SciPy's `OptimizeResult`: `x` with the shape and dtype of `x0`, `fun`, `nit`, `nfev`, `message`, ...

    Raises:
        ValueError: An argument is wrong, `f` doesn't return a scalar, its value is not finite at `x0`, or two
            evaluations at `x0` differ.
        RuntimeError: Keras doesn't run on TensorFlow.

    Example:

    >>> result = minimize_function(lambda x: keras.ops.sum((x - 3) ** 2), np.zeros((2, 2)), verbose=0)
    >>> result.x.round(4).tolist()
    [[3.0, 3.0], [3.0, 3.0]]
    """
    require_tensorflow("minimize_function")
    check_choice("method", method, METHODS)
    check_integer("max_iterations", max_iterations, 1)
    x0 = np.asarray(keras.ops.convert_to_numpy(x0))
    if not np.issubdtype(x0.dtype, np.floating):
        raise ValueError(f"`x0` must be an array of floats. Received: dtype={x0.dtype}")
    if bounds is not None and method != "L-BFGS-B":
        raise ValueError(f"`bounds` needs method 'L-BFGS-B'. Received: method={method!r}")
    from kregkit.optimizers._objective import function_objective

    objective = function_objective(f, x0, jit_compile)
    start = objective.get()
    known = check_constant(objective, start)

    def shaped(vector):
        return vector.reshape(x0.shape).astype(x0.dtype)

    latest = None

    def report(iteration, vector, logs):
        nonlocal latest
        latest = iteration, vector.copy(), dict(logs)
        return bool(callback is not None and callback(iteration, shaped(vector), dict(logs)))

    if bounds is not None:
        bounds = [tuple(bounds)] * objective.size
    iterations = range(max_iterations)
    try:
        result = solve(objective, start, known, method, iterations, report, tolerance, options, verbose, bounds)
    except KeyboardInterrupt:
        if latest is None:
            raise
        result = interrupted_result(*latest)
        if verbose:
            print(result.message)
    result.x = shaped(result.x)
    return result
