"""Runs SciPy's solvers on an objective, after checking that it is the same at every evaluation."""

import keras
import numpy as np

from kregkit._core.checks import check_choice, check_integer

METHODS = ("L-BFGS-B", "BFGS", "CG", "Newton-CG", "trust-ncg", "trust-krylov")
_NEWTON_METHODS = ("Newton-CG", "trust-ncg", "trust-krylov")


def objective_of(
    model, x, y, loss, batch_size, stochastic, batch_normalization, seed, jit_compile=False, sample_weight=None
):
    """Returns a context manager of a model's objective, after checking the arguments that shape it."""
    check_choice("stochastic", stochastic, ("refuse", "freeze", "inference"))
    check_choice("batch_normalization", batch_normalization, ("inference", "training"))
    check_integer("seed", seed, 0)
    if batch_size is not None:
        check_integer("batch_size", batch_size, 1)
    from kregkit.optimizers._model_objective import model_objective

    return model_objective(
        model, x, y, loss, batch_size, stochastic, batch_normalization, seed, jit_compile, sample_weight
    )


def check_constant(objective, vector):
    """Returns an objective's value and gradient; raises `ValueError` unless they are finite, and the same twice."""
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
            "The loss must be the same at every evaluation, and two at the same weights differ: something in it draws "
            f"random numbers or keeps a state. Received: loss={value}, then loss={again}"
        )
    return value, gradient


def solve(objective, start, value_and_gradient, method, iterations, report, tolerance, options, verbose, bounds=None):
    """Runs SciPy's solver and returns its result.

    Args:
        objective: An `Objective`.
        start: Vector, where to start.
        value_and_gradient: The objective's at the start.
        method: String, one of `METHODS`.
        iterations: Range, the numbers of the iterations.
        report: Callable `(iteration, vector, logs)` that sees each iterate and returns True to stop.
        tolerance, options, bounds: As `scipy.optimize.minimize` takes them.
        verbose: As `keras.utils.Progbar` takes it.
    """
    import threadpoolctl
    from scipy import optimize

    evaluations = 0
    norms, logs = {}, {}
    done, stopped = iterations.start, False
    bar = keras.utils.Progbar(
        iterations.stop,
        verbose=1 if verbose == "auto" else verbose,
        unit_name="iteration",
        stateful_metrics=["loss", "gradient_norm", "evaluations"],
    )

    def evaluate(vector):
        nonlocal evaluations
        evaluations += 1
        if evaluations == 1 and np.array_equal(vector, start):
            value, gradient = value_and_gradient
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
        nonlocal done, stopped, logs
        value = float(intermediate_result.fun)
        norm = norms.get(value, np.nan)
        norms.clear()
        norms[value] = norm
        logs = {"loss": value, "gradient_norm": norm, "evaluations": evaluations}
        stopped = report(done, intermediate_result.x, logs)
        done += 1
        bar.update(done, list(logs.items()), finalize=stopped or done == iterations.stop)
        if stopped:
            raise StopIteration

    # SciPy's own work is a few vectors long; its BLAS threads, waiting for more, take the cores from TensorFlow's.
    with threadpoolctl.threadpool_limits(1, "blas"):
        try:
            result = optimize.minimize(
                evaluate,
                start,
                method=method,
                jac=True,
                hessp=hessian_product if method in _NEWTON_METHODS else None,
                bounds=bounds,
                tol=tolerance,
                callback=step,
                options={"maxiter": len(iterations), **(options or {})},
            )
        except KeyboardInterrupt:
            if logs and done < iterations.stop:
                # The progress line ends, and what is printed next begins a line of its own.
                bar.update(done, list(logs.items()), finalize=True)
            raise
    if verbose and not stopped and done < iterations.stop:
        if logs:
            bar.update(done, list(logs.items()), finalize=True)
        print(f"The solver stopped by itself: {result.message}")
    return result


def interrupted_result(iteration, vector, logs):
    """Returns SciPy's result of a run that Ctrl-C ended after an iteration, from what was reported of it."""
    from scipy import optimize

    number = iteration + 1
    return optimize.OptimizeResult(
        x=vector,
        fun=logs["loss"],
        nit=number,
        nfev=logs["evaluations"],
        success=False,
        # As SciPy numbers a run that its callback ended.
        status=99,
        message=f"Interrupted: the result is that of iteration {number}, the last finished one",
    )
