"""The size of updates beside the weights they change, over a whole run."""

from typing import Any

from keras import ops

from kregkit._core import keras_internals
from kregkit._core.checks import check_integer
from kregkit._core.graph import all_layers, block_paths
from kregkit._core.types import Tensor
from kregkit._core.weights import is_kernel
from kregkit.callbacks.traced import TracedCallback


class UpdateRatio(TracedCallback):
    """Logs `||update|| / ||weights||` of each layer, computed inside the train step: about 1e-3 is healthy.

    ```
    ratio = ||w(t + 1) - w(t)|| / ||w(t)||
    ```

    The norms are over all kernels of a layer together (matrices and higher; biases and scales start at 0 or 1, where
    the ratio says nothing), measured in one batch out of `every`, and logged as `update_ratio/<layer>` until the next
    measurement. A layer inside a block has the block's name before its own, as in `update_ratio/block_2/dense`; names
    that Keras counts through the session, such as `dense_13`, are counted anew in each block. In between, the compiled
    step does no more than look whether one is due. A batch that moves no kernel, since loss scaling skips it or its
    gradients are only accumulated, is not measured; the next one is. Layers frozen when the fit begins are left out.

    Args:
        every: Integer >= 1, the batches from one measurement to the next. Defaults to `100`.

    Raises:
        ValueError: `every` is out of range.

    Example:

    >>> import keras, numpy as np
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="out", kernel_initializer="ones")])
    >>> model.compile(keras.optimizers.SGD(0.01), "mse")
    >>> x = np.ones((4, 2), "float32")
    >>> history = model.fit(x, x[:, :1], verbose=0, callbacks=[UpdateRatio(every=1)])
    >>> round(float(history.history["update_ratio/out"][0]), 4)  # the gradient is 2 for both weights
    0.02
    """

    untraced_attributes: tuple[str, ...] = ("_measured", "_before", "_pending")
    fit_attributes: tuple[str, ...] = ("_kernels", "_ratios", "_due", "_measured", "_before")

    def __init__(self, every: int = 100) -> None:
        super().__init__()
        self.every = check_integer("every", every, 1)
        self._pending: Any = None

    def get_state(self) -> dict[str, Any]:
        """Returns the ratios last measured, by layer, and whether a measurement is due; within a fit."""
        values = [float(ops.convert_to_numpy(ratio.read_value())) for ratio in self._ratios]
        return {"ratios": dict(zip(self._kernels, values)), "due": bool(ops.convert_to_numpy(self._due.read_value()))}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from `state` in the next fit, or in this one before its first epoch."""
        self._pending = state

    def prepare(self) -> None:
        if not all(layer.built for layer in all_layers(self.model)):
            raise ValueError(
                "UpdateRatio needs the layers' weights, and this model makes them in its first step: call it once on a "
                f"batch of inputs before `fit`. Received: model={self.model.name!r}"
            )
        self._kernels: dict[str, list[Any]] = {}
        for name, layer in block_paths(self.model):
            own = [variable for variable in keras_internals.own_trainable_variables(layer) if variable.trainable]
            kernels = [variable for variable in own if is_kernel(variable)]
            if kernels:
                while name in self._kernels:
                    name += "_"
                self._kernels[name] = kernels
        state, self._pending = self._pending or {"ratios": {}, "due": False}, None
        self._ratios = [
            self.train_step.variable(self, f"update_ratio_{index}", state["ratios"].get(name, 0.0), "float32")
            for index, name in enumerate(self._kernels)
        ]
        self._due = self.train_step.variable(self, "update_ratio_due", state["due"], "bool")

    def before_step(self, step: Tensor) -> Any:
        self._measured = ops.logical_or(self._due, ops.equal(step % self.every, 0))
        flat = [variable for kernels in self._kernels.values() for variable in kernels]

        def copies():
            return [ops.copy(variable) for variable in flat]

        def nothing():
            return [ops.zeros_like(variable) for variable in flat]

        if self.every == 1:
            self._before = copies()
        else:
            self._before = ops.cond(self._measured, copies, nothing) if flat else []

    def after_step(self, step: Tensor, logs: dict[str, Any]) -> None:
        before = iter(self._before)
        old = [[next(before) for _ in kernels] for kernels in self._kernels.values()]

        def measure():
            found = []
            for kernels, values in zip(self._kernels.values(), old):
                moved = sum(_square(ops.subtract(kernel, value)) for kernel, value in zip(kernels, values))
                size = sum(_square(value) for value in values)
                found.append(ops.sqrt(moved) / ops.maximum(ops.sqrt(size), 1e-12))
            # True of NaN, too.
            updated = ops.any(ops.not_equal(ops.stack(found), 0.0))
            for ratio, value in zip(self._ratios, found):
                ratio.assign(ops.where(updated, value, ratio))
            self._due.assign(ops.logical_not(updated))

        if not self._kernels:
            return
        if self.every == 1:
            measure()
        else:
            ops.cond(self._measured, measure, lambda: None)
        for name, ratio in zip(self._kernels, self._ratios):
            # Its value now: the eager loop would keep the variable.
            logs[f"update_ratio/{name}"] = ops.multiply(ratio, 1.0)


def _square(tensor):
    return ops.sum(ops.square(ops.cast(tensor, "float32")))
