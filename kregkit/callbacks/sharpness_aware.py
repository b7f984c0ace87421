"""Minimising the sharpness of the loss as well as the loss."""

from collections.abc import Callable
from typing import Any

from keras import ops

from kregkit._core.checks import check_integer, check_number
from kregkit._core.types import Tensor
from kregkit.callbacks._gradients_again import local_component
from kregkit.callbacks.traced import TracedCallback

# What ASAM adds to each weight's size, so that weights near zero move as well.
_SMALLEST_SIZE = 0.01


class SharpnessAware(TracedCallback):
    """Trains by the gradient at the worst weights nearby (SAM), so that the loss is low around the minimum as well.

    In each step, with the gradient `g` of the batch's loss at the weights `w`,

    ```
    e = rho g / ||g||                          adaptive: e = rho T^2 g / ||T g||,  T = |w| + 0.01
    ```

    the model's own step runs a second time at `w + e`, and the optimizer applies the gradient from there to `w`. The
    norm is over all trained weights together. Both gradients are of the same batch with the same noise; metrics,
    BatchNormalization's statistics and everything else that a step leaves behind come from the first run.

    A step takes the time of two; with `every=k`, one step in `k` is such a step and the others are plain. Under
    gradient accumulation each batch's own gradient is taken twice, and under `tf.distribute` each replica's: `e` then
    follows the smaller batch, which the paper finds better (its "m-sharpness"). A batch that loss scaling skips is
    skipped. Works with any `train_step` that calls the compiled optimizer once.

    Args:
        rho: Float > 0, the distance. `0.05` suits most networks; with `adaptive`, about ten times as much.
        adaptive: Boolean, whether each weight moves by its own size (ASAM), so that rescaling layers changes nothing.
        every: Integer >= 1, the steps from one such step to the next. Defaults to `1`.

    Raises:
        ValueError: An argument is out of range; in `fit`, there are two of these, or the model's own `train_step`
            doesn't call the compiled optimizer once.

    Example:

    >>> callback = SharpnessAware(rho=0.05)

    Each weight by its own size:

    >>> callback = SharpnessAware(rho=0.5, adaptive=True)

    References: [Foret et al., 2021](https://arxiv.org/abs/2010.01412),
    [Kwon et al., 2021](https://arxiv.org/abs/2102.11600)
    """

    needs_compiled_optimizer = True

    def __init__(self, rho: float = 0.05, adaptive: bool = False, every: int = 1) -> None:
        super().__init__()
        self.rho = check_number("rho", rho, 0, low_open=True)
        if not isinstance(adaptive, bool):
            raise ValueError(f"`adaptive` must be True or False. Received: adaptive={adaptive!r}")
        self.adaptive = adaptive
        self.every = check_integer("every", every, 1)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        super().on_train_begin(logs)
        if len(self.train_step.find(SharpnessAware)) > 1:
            names = [type(callback).__name__ for callback in self.train_step.callbacks]
            raise ValueError(f"Two SharpnessAware can't share one step: keep one. Received: callbacks={names}")

    def apply_gradients(
        self,
        step: Tensor,
        gradients: Any,
        variables: Any,
        apply: Callable[..., Any],
        gradients_again: Callable[..., Any],
    ) -> Any:
        known = [index for index, gradient in enumerate(gradients) if gradient is not None]
        first = [gradients[index] for index in known]

        def nearby():
            weights = [local_component(variables[index]) for index in known]
            values = [ops.copy(weight) for weight in weights]
            try:
                for weight, value, move in zip(weights, values, self._moves(values, first)):
                    weight.assign(value + move)
                second = gradients_again()
            finally:
                # Run eagerly, the second run may be interrupted.
                for weight, value in zip(weights, values):
                    weight.assign(value)
            return [second[index] for index in known]

        chosen = nearby() if self.every == 1 else ops.cond(ops.equal(step % self.every, 0), nearby, lambda: first)
        gradients = list(gradients)
        for index, gradient in zip(known, chosen):
            gradients[index] = gradient
        return apply(gradients, variables)

    def _moves(self, weights, gradients):
        """Returns `e` for every weight; zero where the gradient's norm is, or is not finite."""
        gradients = [ops.cast(gradient, "float32") for gradient in gradients]
        sizes = [ops.abs(ops.cast(weight, "float32")) + _SMALLEST_SIZE if self.adaptive else 1.0 for weight in weights]
        # Divided by the largest first: squares of scaled gradients may overflow.
        largest = ops.max(ops.stack([ops.max(ops.abs(gradient)) for gradient in gradients]))
        usable = ops.logical_and(ops.isfinite(largest), largest > 0)
        inverse = ops.where(usable, 1 / ops.where(usable, largest, 1.0), 0.0)
        gradients = [ops.where(usable, gradient, 0.0) * inverse * size for gradient, size in zip(gradients, sizes)]
        norm = ops.sqrt(sum(ops.sum(ops.square(gradient)) for gradient in gradients))
        scale = self.rho / ops.where(usable, norm, 1.0)
        return [
            ops.cast(scale * gradient * size, weight.dtype) for weight, gradient, size in zip(weights, gradients, sizes)
        ]
