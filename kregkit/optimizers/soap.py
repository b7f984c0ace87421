"""Adam in Shampoo's eigenbasis."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from kregkit._core import keras_internals
from kregkit._core.checks import check_integer, check_number
from kregkit._core.types import LearningRate, Tensor
from kregkit._core.weights import variable_path
from kregkit._core.written import Written
from kregkit.optimizers._arguments import keras_arguments


class _Slots:
    """The state of one variable: Adam's two averages, and for each preconditioned side its statistics and basis."""

    def __init__(self, shape, sides, momentum, velocity, statistics, bases):
        self.shape = shape  # The matrix that the variable is treated as; its own shape where no side is preconditioned.
        self.sides = sides  # Which of the matrix's axes are preconditioned.
        self.momentum = momentum  # In the eigenbasis.
        self.velocity = velocity  # In the eigenbasis.
        self.statistics = statistics
        self.bases = bases


@keras.saving.register_keras_serializable(package="kregkit")
class SOAP(Written, keras.optimizers.Optimizer):
    """Runs Adam in the slowly turning eigenbasis of Shampoo's preconditioner.

    For a weight matrix `W` with gradient `G`:

    ```
    G' = Q_L^T G Q_R
    M' = beta_1 M' + (1 - beta_1) G'
    V  = beta_2 V  + (1 - beta_2) G' ** 2
    W  = W - learning_rate * Q_L [M^ / (sqrt(V^) + epsilon)] Q_R^T
    L  = beta_2 L  + (1 - beta_2) G G^T
    R  = beta_2 R  + (1 - beta_2) G^T G
    every `precondition_frequency` steps:  Q_L, Q_R = eigenvectors of L, R
    ```

    with Adam's bias correction in `M^` and `V^`. Adam scales each axis by itself, which can't undo a valley that lies
    across the axes; here the axes are first turned into the valley.

    Kernels of more than two axes are treated as the matrix whose split between the axes is most even: a convolution's
    `(height, width, in, out)` mostly as `(height * width * in, out)`. A side longer than `max_precondition_dim` keeps
    its own axes (one-sided); where both are, and for vectors, the rule is Adam.

    Departures from the paper: until `L` and `R` have looked back their `1 / (1 - beta_2)` steps the basis is that of
    the weights, and the rule Adam, where the paper takes the eigenvectors of the first gradient alone (and no first
    step): a few gradients' axes are mostly chance. At that turn `V` is turned as if the entries of `G` were
    independent, and scaled to the new axes' eigenvalues. `M` is kept in the eigenbasis and turned with it: the same
    rule, with two products a step fewer. From the first turn on, a noise floor of 256 roundings of the gradient's size
    is added to the denominator, so that directions without any gradient (dead units, unused rows) aren't moved by the
    rounding of the others.

    Where a valley lies along the weights' axes already, Adam's scale per entry is right and the turn can harm: on a
    noiseless diagonal least squares problem the paper's rule took 3 to 4 times Adam's steps.

    Cost: six matrix products of the weight's size per step, one symmetric decomposition in all and one QR decomposition
    per side and refresh; memory of `2 (rows^2 + columns^2)` beside Adam's. State is at least float32.

    Args:
        learning_rate: Float, `LearningRateSchedule` or callable. Defaults to `0.003`.
        beta_1: Float in [0, 1), decay of the gradient's average. Defaults to `0.95`.
        beta_2: Float in [0, 1), decay of the squared gradient's averages, `V`, `L` and `R`. Defaults to `0.95`.
        epsilon: Float >= 0, added to the root. Defaults to `1e-8`.
        precondition_frequency: Integer >= 1, steps between two refreshes of the eigenbasis. Defaults to `10`.
        max_precondition_dim: Integer >= 0, the longest side that is preconditioned. Defaults to `1024`.
        weight_decay, clipnorm, clipvalue, global_clipnorm, use_ema, ema_momentum, ema_overwrite_frequency,
            loss_scale_factor, gradient_accumulation_steps, name: As in `keras.optimizers.Optimizer`. Weight decay is
            decoupled.

    Raises:
        ValueError: An argument is outside its range.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, kernel_initializer="zeros")])
    >>> model.compile(SOAP(learning_rate=0.02), "mse")
    >>> history = model.fit(np.eye(4), np.ones((4, 3)), epochs=200, verbose=0)
    >>> history.history["loss"][-1] < 1e-3
    True

    Reference: [Vyas et al., 2024](https://arxiv.org/abs/2409.11321)
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.003,
        beta_1: float = 0.95,
        beta_2: float = 0.95,
        epsilon: float = 1e-8,
        precondition_frequency: int = 10,
        max_precondition_dim: int = 1024,
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        loss_scale_factor: float | None = None,
        gradient_accumulation_steps: int | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(
            **keras_arguments(
                learning_rate=learning_rate,
                weight_decay=weight_decay,
                clipnorm=clipnorm,
                clipvalue=clipvalue,
                global_clipnorm=global_clipnorm,
                use_ema=use_ema,
                ema_momentum=ema_momentum,
                ema_overwrite_frequency=ema_overwrite_frequency,
                loss_scale_factor=loss_scale_factor,
                gradient_accumulation_steps=gradient_accumulation_steps,
                name=name,
            )
        )
        self.beta_1 = check_number("beta_1", beta_1, 0, 1, high_open=True)
        self.beta_2 = check_number("beta_2", beta_2, 0, 1, high_open=True)
        self.epsilon = check_number("epsilon", epsilon, 0)
        self.precondition_frequency = check_integer("precondition_frequency", precondition_frequency, 1)
        self.max_precondition_dim = check_integer("max_precondition_dim", max_precondition_dim, 0)

    @property
    def first_refresh(self) -> int:
        """The step of the first turn: the first refresh after the `1 / (1 - beta_2)` steps that the averages span."""
        # Rounded: 1 / (1 - 0.95) is a little more than 20.
        return self.precondition_frequency * math.ceil(round(1 / (1 - self.beta_2) / self.precondition_frequency, 6))

    def build(self, var_list: Sequence[Any]) -> None:
        if self.built:
            return
        super().build(var_list)
        self._slots = [self._new_slots(variable) for variable in var_list]

    def _new_slots(self, variable):
        if getattr(variable, "overwrite_with_gradient", False):
            return None
        shape = _matrix_shape(tuple(variable.shape))
        sides = [axis for axis, dim in enumerate(shape) if len(shape) == 2 and 1 < dim <= self.max_precondition_dim]
        if not sides:
            shape = tuple(variable.shape)
        # Half precision has no decompositions, and squares of gradients underflow in it.
        dtype = variable.dtype if variable.dtype in ("float32", "float64") else "float32"

        def slot(name, shape, initializer="zeros"):
            path = variable_path(variable).replace("/", "_")
            return self.add_variable(shape, initializer, dtype, name=f"{path}_{name}")

        return _Slots(
            shape,
            sides,
            slot("momentum", shape),
            slot("velocity", shape),
            [slot(f"statistics_{axis}", (shape[axis], shape[axis])) for axis in sides],
            [slot(f"basis_{axis}", (shape[axis], shape[axis]), "identity") for axis in sides],
        )

    def update_step(self, gradient: Tensor, variable: Tensor, learning_rate: LearningRate) -> None:
        slots = self._slots[keras_internals.variable_index(self, variable)]
        dtype = slots.momentum.dtype
        gradient = ops.reshape(ops.cast(ops.convert_to_tensor(gradient), dtype), slots.shape)
        bases = [ops.convert_to_tensor(basis) for basis in slots.bases]

        steps = ops.cast(self.iterations + 1, dtype)
        rotated = _rotate(gradient, slots.sides, bases)
        momentum = slots.momentum + (1 - self.beta_1) * (rotated - slots.momentum)
        velocity = slots.velocity + (1 - self.beta_2) * (ops.square(rotated) - slots.velocity)
        mean = momentum / (1 - ops.power(self.beta_1, steps))
        root = ops.sqrt(velocity / (1 - ops.power(self.beta_2, steps)))
        if slots.sides:
            turned = ops.cast(self.iterations >= self.first_refresh, dtype)
            root = root + turned * 256 * float(np.finfo(dtype).eps) * ops.sqrt(ops.sum(ops.square(root)))
        step = _rotate(mean / (root + self.epsilon), slots.sides, bases, back=True)
        step = ops.cast(learning_rate, dtype) * ops.reshape(step, variable.shape)
        self.assign_sub(variable, ops.cast(step, variable.dtype))

        if slots.sides:
            statistics = [
                average + (1 - self.beta_2) * (_second_moment(gradient, axis) - average)
                for axis, average in zip(slots.sides, slots.statistics)
            ]
            # All state goes through the branches as values: JAX can't assign in them.
            refresh = ops.logical_and(
                (self.iterations + 1) % self.precondition_frequency == 0, self.iterations + 1 >= self.first_refresh
            )
            momentum, velocity, *bases = ops.cond(
                refresh,
                lambda: self._refresh(slots.sides, statistics, momentum, velocity, bases),
                lambda: [momentum, velocity, *bases],
            )
            for slot, value in zip([*slots.statistics, *slots.bases], [*statistics, *bases]):
                self.assign(slot, value)
        self.assign(slots.momentum, momentum)
        self.assign(slots.velocity, velocity)

    def _refresh(self, sides, statistics, momentum, velocity, bases):
        """Returns the momentum, the velocity and the bases after the eigenvectors are brought up to date."""

        def decomposed():
            new, scales = [], velocity
            for axis, matrix in zip(sides, statistics):
                values, vectors = ops.linalg.eigh(matrix)
                # Falling eigenvalues, the order in which orthogonal iteration converges.
                basis, energy = ops.flip(vectors, axis=1), ops.maximum(ops.flip(values), 0)
                # The expected squares if the entries were independent, scaled so that each new axis's sum is right.
                scales = _rotate(scales, [axis], [ops.square(basis)])
                sums = ops.sum(scales, axis=1 - axis)
                scales = scales * ops.expand_dims(energy / ops.maximum(sums, 1e-30), axis=1 - axis)
                new.append(basis)
            return [_rotate(momentum, sides, new), scales, *new]

        def iterated():
            turned, scales, new = momentum, velocity, []
            for axis, matrix, basis in zip(sides, statistics, bases):
                image = matrix @ basis
                order = ops.flip(ops.argsort(ops.sum(basis * image, axis=0)))
                # One step of orthogonal iteration. Velocities have no exact rotation: they follow their axes.
                q = ops.linalg.qr(ops.take(image, order, axis=1))[0]
                scales = ops.take(scales, order, axis=axis)
                turned = _rotate(_rotate(turned, [axis], [basis], back=True), [axis], [q])
                new.append(q)
            return [turned, scales, *new]

        return ops.cond(self.iterations + 1 == self.first_refresh, decomposed, iterated)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
            "precondition_frequency": self.precondition_frequency,
            "max_precondition_dim": self.max_precondition_dim,
        }


def _matrix_shape(shape):
    """Returns `(rows, columns)` of the most even split of the axes, or the shape itself if there is one axis."""
    splits = [(math.prod(shape[:at]), math.prod(shape[at:])) for at in range(1, len(shape))]
    # On a draw the later split: a convolution's output channels by themselves.
    return min(reversed(splits), key=max) if splits else shape


def _rotate(matrix, sides, bases, back=False):
    """Returns `Q_L^T matrix Q_R`, or `Q_L matrix Q_R^T` for `back`; a side without a basis stays."""
    for axis, basis in zip(sides, bases):
        left = basis if back else ops.transpose(basis)
        matrix = left @ matrix if axis == 0 else matrix @ ops.transpose(left)
    return matrix


def _second_moment(gradient, axis):
    """Returns `G G^T` for the rows (axis 0), `G^T G` for the columns."""
    transposed = ops.transpose(gradient)
    return gradient @ transposed if axis == 0 else transposed @ gradient
