"""Full-batch optimisation by SciPy's quasi-Newton and Newton solvers."""

import keras
import numpy as np

from kregkit._core.checks import check_choice, check_integer

METHODS = ("L-BFGS-B", "BFGS", "CG", "Newton-CG", "trust-ncg", "trust-krylov")
_NEWTON_METHODS = ("Newton-CG", "trust-ncg", "trust-krylov")


def minimize(
    model,
    x,
    y=None,
    loss=None,
    method="L-BFGS-B",
    max_iterations=100,
    batch_size=None,
    callbacks=None,
    *,
    tolerance=None,
    options=None,
    initial_iteration=0,
    stochastic="refuse",
    batch_normalization="inference",
    seed=0,
    jit_compile=False,
    verbose=1,
):
    """Minimises a model's full-batch loss over its trainable weights.

    ```
    f(W) = mean over all examples of loss(y, model(x; W)) + regularisation losses
    ```

    Loss and gradient are compiled once, and with `batch_size` accumulated over chunks inside the graph: the same
    full-batch numbers, to rounding, with a chunk's activations in memory. The Newton methods multiply the exact Hessian
    with vectors and never store it. For problems with little noise and all data at hand (small networks, fine fits,
    physics, style transfer); on mini-batches these methods are poor.

    Each iteration is an epoch to the callbacks: `on_epoch_begin` and `on_epoch_end` are called with the weights of that
    iterate in place, and the logs `loss`, `gradient_norm` (Euclidean) and `evaluations` (of the loss and its gradient
    so far, or of the Hessian's products). What a callback does to the weights counts in `on_train_begin` and
    `on_train_end`; in between the solver has its own. There are no batches, so that callbacks that work in the train
    step are refused. `model.stop_training = True` stops; so does Ctrl-C, which leaves the last finished iterate in the
    model. To go on, call again with `initial_iteration`, or give both calls a `keras.callbacks.BackupAndRestore`, which
    asks for a compiled model: weights and iteration numbers continue; the curvature that L-BFGS and BFGS have learnt,
    and a trust region's size, start anew.

    Args:
        model: A built Keras model.
        x: Array, or structure of arrays, of all inputs.
        y: Array, or structure of arrays, of all targets, or `None` where the loss needs none. Defaults to `None`.
        loss: Loss name, function `(y, prediction)` or `keras.losses.Loss`. Defaults to the compiled model's.
        method: String, one of SciPy's: `"L-BFGS-B"` (memory of 10 steps), `"BFGS"` and `"CG"`, which use gradients
            (`"BFGS"` stores a matrix of the square of the number of weights); `"Newton-CG"`, `"trust-ncg"` and
            `"trust-krylov"`, which use Hessian-vector products too. Defaults to `"L-BFGS-B"`.
        max_iterations: Integer >= 1, the iteration number at which to stop. Defaults to `100`.
        batch_size: Integer >= 1, examples per chunk, or `None` for all at once. Changes memory, not the result.
        callbacks: List of `keras.callbacks.Callback`.
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
        verbose: 0 for silence, 1 for a progress line. Defaults to `1`.

    Returns:
        A `keras.callbacks.History`, with SciPy's `OptimizeResult` as its attribute `result`.

    Raises:
        ValueError: An argument is wrong; the model draws random numbers and `stochastic` is `"refuse"`; the loss is not
            finite, or two evaluations at the same weights differ: the objective moves. The weights are unchanged then.
        RuntimeError: Keras doesn't run on TensorFlow.

    Example:

    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    >>> history = minimize(model, np.array([[0.0], [1.0], [2.0]]), np.array([[1.0], [3.0], [5.0]]), "mse", verbose=0)
    >>> [round(float(w.squeeze()), 3) for w in model.get_weights()]
    [2.0, 1.0]

    Reference: [Liu and Nocedal, 1989](https://doi.org/10.1007/BF01589116); [Pearlmutter,
    1994](https://doi.org/10.1162/neco.1994.6.1.147) for the Hessian-vector products.
    """
    check_choice("method", method, METHODS)
    check_integer("initial_iteration", initial_iteration, 0)
    check_integer("max_iterations", max_iterations, initial_iteration + 1)
    hooked = [type(callback).__name__ for callback in keras.tree.flatten(callbacks) if hasattr(callback, "before_step")]
    if hooked:
        raise ValueError(f"`callbacks` must not work in the train step: there is none. Received: callbacks={hooked}")
    with objective_of(model, x, y, loss, batch_size, stochastic, batch_normalization, seed, jit_compile) as objective:
        start = objective.get()
        known = check_standing(objective, start)
        callbacks = keras.callbacks.CallbackList(
            callbacks, add_history=True, model=model, epochs=max_iterations, steps=1, verbose=verbose
        )
        model.stop_training = False
        # Where `BackupAndRestore` says at which epoch to go on; it never clears what it says.
        model._initial_epoch = None
        callbacks.on_train_begin()
        initial_iteration = model._initial_epoch or initial_iteration
        model._initial_epoch = None
        restored = objective.get()
        if not np.array_equal(restored, start):
            start, known = restored, check_standing(objective, restored)
        objective.keeps_statistics = True
        latest, result = start, None

        def report(iteration, vector, logs):
            nonlocal latest
            latest = vector.copy()
            objective.show(vector)
            callbacks.on_epoch_end(iteration, dict(logs))
            if model.stop_training:
                return True
            if iteration + 1 < max_iterations:
                callbacks.on_epoch_begin(iteration + 1)
            return False

        if initial_iteration < max_iterations:
            callbacks.on_epoch_begin(initial_iteration)
            try:
                result = _solve(
                    objective,
                    start,
                    known,
                    method,
                    initial_iteration,
                    max_iterations,
                    tolerance,
                    options,
                    report,
                    verbose,
                )
                latest = result.x
            finally:
                objective.settle(latest)
        callbacks.on_train_end()
    model.history.result = result
    return model.history


def minimize_function(
    f,
    x0,
    method="L-BFGS-B",
    max_iterations=100,
    callback=None,
    *,
    bounds=None,
    tolerance=None,
    options=None,
    jit_compile=False,
    verbose=1,
):
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
    check_choice("method", method, METHODS)
    check_integer("max_iterations", max_iterations, 1)
    x0 = np.asarray(keras.ops.convert_to_numpy(x0))
    if not np.issubdtype(x0.dtype, np.floating):
        raise ValueError(f"`x0` must be an array of floats. Received: dtype={x0.dtype}")
    if bounds is not None and method != "L-BFGS-B":
        raise ValueError(f"`bounds` needs method 'L-BFGS-B'. Received: method={method!r}")
    objective = _backend().function_objective(f, x0, jit_compile)
    start = objective.get()
    known = check_standing(objective, start)

    def shaped(vector):
        return vector.reshape(x0.shape).astype(x0.dtype)

    def report(iteration, vector, logs):
        return bool(callback is not None and callback(iteration, shaped(vector), dict(logs)))

    if bounds is not None:
        bounds = [tuple(bounds)] * objective.size
    result = _solve(objective, start, known, method, 0, max_iterations, tolerance, options, report, verbose, bounds)
    result.x = shaped(result.x)
    return result


def objective_of(model, x, y, loss, batch_size, stochastic, batch_normalization, seed, jit_compile=False):
    """Returns a context manager of a model's objective, after checking the arguments that shape it."""
    check_choice("stochastic", stochastic, ("refuse", "freeze", "inference"))
    check_choice("batch_normalization", batch_normalization, ("inference", "training"))
    check_integer("seed", seed, 0)
    if batch_size is not None:
        check_integer("batch_size", batch_size, 1)
    if not model.built:
        raise ValueError(f"`model` must be built: call it on one batch first. Received: model={model!r}")
    return _backend().model_objective(model, x, y, loss, batch_size, stochastic, batch_normalization, seed, jit_compile)


def check_standing(objective, vector):
    """Raises `ValueError` unless the objective is finite and the same twice; returns value and gradient."""
    value, gradient = objective.value_and_gradient(vector)
    if not (np.isfinite(value) and np.isfinite(gradient).all()):
        raise ValueError(f"The loss and its gradient must be finite at the start. Received: loss={value}")
    again, gradient_again = objective.value_and_gradient(vector)
    # Sums in another order differ by roundings; random numbers by far more.
    tolerance = np.sqrt(objective.precision)
    moved = abs(again - value) > tolerance * abs(value) or np.linalg.norm(gradient_again - gradient) > (
        tolerance * np.linalg.norm(gradient) + objective.precision * abs(value)
    )
    if moved:
        raise ValueError(
            "The objective moves: two evaluations at the same point differ. Something in it draws random numbers or "
            f"keeps a state. Received: loss={value}, then {again}"
        )
    return value, gradient


def _backend():
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            f"Full-batch solvers need Keras on TensorFlow. Received: backend={keras.backend.backend()!r}"
        )
    from kregkit.optimizers import _objective

    return _objective


def _solve(
    objective, start, known, method, initial_iteration, max_iterations, tolerance, options, report, verbose, bounds=None
):
    """Runs SciPy's solver; `report(iteration, vector, logs)` sees each iterate and returns True to stop.

    `known` are the value and the gradient at the start.
    """
    import threadpoolctl
    from scipy import optimize

    evaluations = 0
    norms = {}
    iteration = initial_iteration
    bar = keras.utils.Progbar(
        max_iterations,
        verbose=verbose,
        unit_name="iteration",
        stateful_metrics=["loss", "gradient_norm", "evaluations"],
    )

    def value_and_gradient(vector):
        nonlocal evaluations
        evaluations += 1
        if evaluations == 1 and np.array_equal(vector, start):
            value, gradient = known
        else:
            value, gradient = objective.value_and_gradient(vector)
        # The iterate that SciPy reports is one of the points that it tried, known by its value.
        norms[value] = float(np.linalg.norm(gradient))
        return value, gradient

    def hessian_product(vector, direction):
        nonlocal evaluations
        evaluations += 1
        return objective.hessian_product(vector, direction)

    def step(intermediate_result):
        nonlocal iteration
        value = float(intermediate_result.fun)
        norm = norms.get(value, np.nan)
        norms.clear()
        norms[value] = norm
        logs = {"loss": value, "gradient_norm": norm, "evaluations": evaluations}
        stop = report(iteration, intermediate_result.x, logs)
        iteration += 1
        bar.update(iteration, list(logs.items()), finalize=stop or iteration == max_iterations)
        if stop:
            raise StopIteration

    # SciPy's own work is a few vectors long; its BLAS threads, waiting for more, take the cores from TensorFlow's.
    with threadpoolctl.threadpool_limits(1, "blas"):
        result = optimize.minimize(
            value_and_gradient,
            start,
            method=method,
            jac=True,
            hessp=hessian_product if method in _NEWTON_METHODS else None,
            bounds=bounds,
            tol=tolerance,
            callback=step,
            options={"maxiter": max_iterations - initial_iteration, **(options or {})},
        )
    if verbose and iteration < max_iterations:
        keras.utils.io_utils.print_msg(f"\n{result.message}")
    return result
