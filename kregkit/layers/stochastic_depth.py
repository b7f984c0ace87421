"""Stochastic depth: residual branches that are left out at random while training."""

import inspect
from typing import Any, Literal

import keras
from keras import ops, tree

from kregkit._core import keras_internals, rules
from kregkit._core.checks import check_choice, check_integer, check_number
from kregkit._core.types import Shape, Tensor
from kregkit.layers._backend import on_tensorflow, runs_eagerly
from kregkit.layers._noise import NoisyLayer, coin, is_surely
from kregkit.layers._rows import put_rows, random_subset, take_rows

# Rounds to the nearest integer, and halves upward in every precision: float32 makes of 0.35 * 90 a little less.
_UPWARD = 0.501


@rules.checked(num_blocks=rules.whole(1, 10**6))
def linear_survival(num_blocks: int, final: float = 0.5) -> list[float]:
    """Returns the survival probabilities `p_l = 1 - (l / L) (1 - p_L)` of blocks `l = 1 ... L`, first block first.

    The earlier a block, the more others build on its features, so the rarer it is left out.

    Args:
        num_blocks: Integer >= 1, `L`.
        final: Float in (0, 1], `p_L`. Defaults to 0.5.

    Returns:
        List of `num_blocks` floats.

    Example:

    >>> linear_survival(4)
    [0.875, 0.75, 0.625, 0.5]

    Reference: [Huang et al., 2016](https://arxiv.org/abs/1603.09382)
    """
    check_integer("num_blocks", num_blocks, low=1)
    check_number("final", final, 0, 1, low_open=True)
    return [1 - block / num_blocks * (1 - final) for block in range(1, num_blocks + 1)]


@keras.saving.register_keras_serializable(package="kregkit")
class StochasticDepth(NoisyLayer):
    """Computes `shortcut(x) + b * branch(x) / p` in training, `b ~ Bernoulli(p)`, and `shortcut(x) + branch(x)` after.

    The equation is that of `scale="train"`. With `scale="test"`, as the paper has it, training computes
    `shortcut(x) + b * branch(x)` and inference `shortcut(x) + p * branch(x)`. In expectation both are consistent.

    `mode` says which examples share one `b`:

    - `"batch"`: one coin per mini-batch, the paper's. A dropped branch isn't computed, forward or backward, so that
      training gets faster by about `1 - mean(p)` of the branches' time. XLA on CPUs computes a convolution's gradient
      inside a conditional tens of times slower; there, the branch is computed and masked instead.
    - `"sample"`: one coin per example. The branch is computed for all, and masked: no time is saved, and the branch's
      BatchNormalization sees every example.
    - `"subset"`: the branch is computed for a uniformly random subset `S` of exactly `max(1, round(p |B|))` of the
      batch's `|B|` examples (halves go up), and only those enter its BatchNormalization. Shapes are static, so that
      this is the mode to use with `jit_compile=True`. The factor is `|B| / |S|` in place of `1 / p`, and `|S| / |B|` of
      the batch at hand in place of `p`: with `scale="test"`, inference on batches so small that rounding matters
      depends on their size, which `scale="train"` avoids.

    A skipped branch contributes no loss and no gradient, and its state (BatchNormalization's statistics, metrics,
    seeds) stays as it was; in mode `"sample"`, this holds for what examples add to the output, not for the state, nor
    for losses that layers of the branch add by themselves. The optimizer still sees the branch's weights, with a
    gradient of zero: momentum and weight decay go on moving them, as in the paper's code.

    The sum is not followed by an activation; where the paper's block has `ReLU(shortcut + branch)`, add it.

    Args:
        branch: Layer or model, whose output has the shape of the shortcut's.
        survival_probability: Float in (0, 1], `p`. Defaults to 0.5. See `linear_survival` for a whole network.
        mode: `"batch"`, `"sample"` or `"subset"`. Defaults to `"batch"`.
        shortcut: Layer or model on the same inputs, or None for the identity (of the first input, where there are
            several; a dictionary's are in the order of its sorted keys). It is called with the inputs alone. Defaults
            to None.
        scale: `"train"` or `"test"`, when the branch is scaled. Defaults to `"train"`.
        layer_scale: Float > 0 or None. A float, such as `1e-6`, multiplies the branch's output by a trained weight for
            each entry of the last axis, which starts there: a deep network then starts as the identity. Defaults to
            None, no weight.
        seed: Integer >= 0 or None, seeds the coins. Defaults to None, a random seed.

    Call arguments:
        inputs: Tensor, or a structure of tensors, for the branch. Further positional and keyword arguments go to the
            branch. In mode `"subset"`, the first axis of every tensor that isn't a scalar must be the batch, or of
            length 1.
        training: Boolean, whether to draw; passed on to the branch and the shortcut.
        mask: Passed on to a branch that takes a mask. The output carries the first input's mask on. Masks of further
            tensors reach the branch as Keras hands them on.

    Raises:
        ValueError: for an argument outside its range, and when the branch's output has another shape than the
            shortcut's.

    Example:

    >>> block = keras.Sequential([keras.layers.Dense(8, activation="relu"), keras.layers.Dense(8)])
    >>> layer = StochasticDepth(block, survival_probability=0.8)
    >>> tuple(layer(keras.ops.ones((2, 8)), training=True).shape)
    (2, 8)

    Reference: [Huang et al., 2016](https://arxiv.org/abs/1603.09382); the subset form is that of
    [Oquab et al., 2023](https://arxiv.org/abs/2304.07193), `layer_scale` that of
    [Touvron et al., 2021](https://arxiv.org/abs/2103.17239).
    """

    wrapped = ("branch", "shortcut")
    rate_attribute = "survival_probability"

    def __init__(
        self,
        branch: keras.layers.Layer,
        survival_probability: float = 0.5,
        mode: Literal["batch", "sample", "subset"] = "batch",
        shortcut: keras.layers.Layer | None = None,
        scale: Literal["train", "test"] = "train",
        seed: int | None = None,
        layer_scale: float | None = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(branch, keras.Layer):
            raise ValueError(f"`branch` must be a Keras layer or model. Received: branch={branch!r}")
        if shortcut is not None and not isinstance(shortcut, keras.Layer):
            raise ValueError(f"`shortcut` must be a Keras layer or model, or None. Received: shortcut={shortcut!r}")
        check_number("survival_probability", survival_probability, 0, 1, low_open=True)
        check_choice("mode", mode, ("batch", "sample", "subset"))
        check_choice("scale", scale, ("train", "test"))
        if layer_scale is not None:
            check_number("layer_scale", layer_scale, 0, low_open=True)
        # Variables are read here to be handed to the branch, which casts them as its own policy says.
        super().__init__(seed=seed, autocast=False, **kwargs)
        self.branch = branch
        self.survival_probability = survival_probability
        self.mode = mode
        self.shortcut = shortcut
        self.scale = scale
        self.layer_scale = layer_scale
        self.branch_factors = None
        self.supports_masking = True
        self._branch_signature = inspect.signature(branch.call)

    def build(self, inputs_shape: Shape) -> None:
        if self.layer_scale is not None:
            initializer = keras.initializers.Constant(self.layer_scale)
            channels = self.compute_output_shape(inputs_shape)[-1]
            self.branch_factors = self.add_weight(shape=(channels,), initializer=initializer, name="layer_scale")
        inputs = tree.map_shape_structure(lambda shape: keras.Input(batch_shape=shape), inputs_shape)
        try:
            self._branch_signature.bind(inputs)
        except TypeError:
            return  # It needs more than `inputs`, and is built when called with it.
        self._build_branch(inputs)
        if self.shortcut is not None and not self.shortcut.built:
            self.shortcut(inputs)

    def call(
        self, inputs: Tensor, *args: Any, training: bool | None = None, mask: Tensor | None = None, **kwargs: Any
    ) -> Tensor:
        if not training:
            return self.expected_call(inputs, *args, training=training, mask=mask, **kwargs)
        return self.draw_call(inputs, *args, training=training, mask=mask, **kwargs)

    def draw_call(
        self, inputs: Tensor, *args: Any, training: bool | None = None, mask: Tensor | None = None, **kwargs: Any
    ) -> Tensor:
        arguments = self._arguments(kwargs, training, mask)
        self._build_branch(inputs, *args, **arguments)
        if is_surely(self.survival_probability, 1):
            return self._expected(inputs, args, arguments, training)
        # At test time a coin for each example and draw: modes that save time share one among examples.
        mode = self.mode if self.noise_source is None else "sample"
        draw = {"batch": self._draw_batch, "sample": self._draw_sample, "subset": self._draw_subset}[mode]
        return draw(inputs, args, arguments, self._shortcut(inputs, training))

    def expected_call(
        self, inputs: Tensor, *args: Any, training: bool | None = None, mask: Tensor | None = None, **kwargs: Any
    ) -> Tensor:
        """Returns the mean over coins: the branch times its survival probability, over the factor of training."""
        return self._expected(inputs, args, self._arguments(kwargs, training, mask), training)

    def _arguments(self, kwargs, training, mask):
        """Returns the keyword arguments of the branch: `training` and `mask` only where it takes them."""
        arguments = dict(kwargs)
        if mask is not None and "mask" in self._branch_signature.parameters:
            arguments["mask"] = mask
        if "training" in self._branch_signature.parameters:
            arguments["training"] = training
        return arguments

    def _build_branch(self, *args, **kwargs):
        """Has the branch make its variables before it is called inside a conditional, which couldn't keep them."""
        if self.branch.built:
            return

        args, kwargs = tree.map_structure(_symbol, (args, kwargs))
        self.branch(*args, **kwargs)

    def _shortcut(self, inputs, training):
        if self.shortcut is None:
            return ops.cast(tree.flatten(inputs)[0], self.compute_dtype)
        takes_training = "training" in inspect.signature(self.shortcut.call).parameters
        outputs = self.shortcut(inputs, **({"training": training} if takes_training else {}))
        return ops.cast(outputs, self.compute_dtype)

    def _branch(self, inputs, args, arguments, like):
        outputs = ops.cast(self.branch(inputs, *args, **arguments), self.compute_dtype)
        shape, expected = tuple(outputs.shape)[1:], tuple(like.shape)[1:]
        if len(shape) != len(expected) or any(a != b for a, b in zip(shape, expected) if None not in (a, b)):
            raise ValueError(
                f"The branch's output must have the shape of the shortcut's, which is {tuple(like.shape)}. "
                f"Received: shape={tuple(outputs.shape)}"
            )
        if self.branch_factors is not None:
            # Multiplied at the weight's own precision: float16 has no 1e-8.
            dtype = self.branch_factors.dtype
            outputs = ops.cast(ops.cast(outputs, dtype) * self.branch_factors, self.compute_dtype)
        return outputs

    def _factor(self, training, batch=None, mode=None):
        """Returns the factor of the branch's output."""
        if (self.scale == "train") != training:
            return 1.0
        if (mode or self.mode) != "subset":
            factor = 1 / self.survival_probability if training else self.survival_probability
            return factor if isinstance(factor, (int, float)) else ops.cast(factor, self.compute_dtype)
        size = ops.cast(self._subset_size(batch), "float32")
        batch = ops.cast(batch, "float32")
        return ops.cast(batch / size if training else size / batch, self.compute_dtype)

    def _subset_size(self, batch):
        if isinstance(batch, int) and isinstance(self.survival_probability, (int, float)):
            return max(1, int(self.survival_probability * batch + _UPWARD))
        return ops.maximum(1, ops.cast(self.survival_probability * ops.cast(batch, "float32") + _UPWARD, "int32"))

    def _expected(self, inputs, args, arguments, training):
        shortcut = self._shortcut(inputs, training)
        return shortcut + self._branch(inputs, args, arguments, shortcut) * self._factor(False, ops.shape(shortcut)[0])

    def _draw_batch(self, inputs, args, arguments, shortcut):
        # The same coin on all replicas: it is the whole mini-batch's.
        survives = coin(self.uniform((), per_replica=False), self.survival_probability)
        state = self.branch.non_trainable_variables
        factors = [] if self.branch_factors is None else [self.branch_factors]
        before = [variable.value for variable in state]
        with_loss = []

        def run():
            # Changes of state and losses can't leave a conditional but as its results.
            variables = [(variable, variable.value) for variable in [*self.branch.variables, *factors]]
            with keras.StatelessScope(variables, collect_losses=True, initialize_variables=False) as scope:
                outputs = self._branch(inputs, args, arguments, shortcut) * self._factor(True)
            with_loss.extend(scope.losses)
            loss = sum((ops.cast(ops.sum(loss), "float32") for loss in scope.losses), ops.zeros((), "float32"))
            return outputs, loss, [scope.get_current_value(variable) for variable in state]

        def survive():
            outputs, loss, after = run()
            return shortcut + outputs, loss, after

        def skip():
            if not runs_eagerly():
                return shortcut, ops.zeros((), "float32"), before
            # Without a graph the tape doesn't see the skipped weights: their gradient would be None instead of zero.
            zero = sum((ops.sum(weight * 0) for weight in [*self.branch.trainable_variables, *factors]), 0.0)
            return shortcut + ops.cast(zero, shortcut.dtype), ops.zeros((), "float32"), before

        if conditionals_are_slow():
            outputs, loss, after = run()
            outputs = shortcut + ops.where(survives, outputs, ops.zeros_like(outputs))
            loss = ops.where(survives, loss, ops.zeros_like(loss))
            after = [ops.where(survives, new, old) for new, old in zip(after, before)]
        else:
            outputs, loss, after = ops.cond(survives, survive, skip)
        for variable, value in zip(state, after):
            variable.assign(value)
        if with_loss:
            self.add_loss(loss)
        return outputs

    def _draw_sample(self, inputs, args, arguments, shortcut):
        outputs = self._branch(inputs, args, arguments, shortcut) * self._factor(True, mode="sample")
        shape = (ops.shape(shortcut)[0], *[1] * (len(shortcut.shape) - 1))
        survives = coin(self.uniform(shape), self.survival_probability)
        return shortcut + ops.where(survives, outputs, ops.zeros_like(outputs))

    def _draw_subset(self, inputs, args, arguments, shortcut):
        batch = ops.shape(shortcut)[0]
        kept, slots = random_subset(self.uniform((batch,)), self._subset_size(batch))

        def take(value):
            # A mask or tensor with one row holds for all examples.
            if not getattr(value, "shape", ()) or value.shape[0] == 1:
                return value
            static = shortcut.shape[0]
            if None not in (static, value.shape[0]) and value.shape[0] != static:
                raise ValueError(
                    'With `mode="subset"`, every tensor passed to the branch must have the batch, here of '
                    f"{static} examples, as its first axis, or one row for all. Received: shape={tuple(value.shape)}"
                )
            taken = take_rows(value, kept, slots)
            mask = keras_internals.get_mask(value)
            keras_internals.set_mask(taken, None if mask is None else take(mask))
            return taken

        inputs, args, arguments = tree.map_structure(take, (inputs, args, arguments))
        outputs = self._branch(inputs, args, arguments, shortcut) * self._factor(True, batch)
        return shortcut + put_rows(outputs, kept, slots)

    def compute_output_spec(
        self, inputs: Tensor, *args: Any, training: bool | None = None, mask: Tensor | None = None, **kwargs: Any
    ) -> Any:
        # Unlike `build`, this knows the shapes of all arguments.
        inputs, args, kwargs, mask = tree.map_structure(_symbol, (inputs, args, kwargs, mask))
        shortcut = self._shortcut(inputs, training)
        self._branch(inputs, args, self._arguments(kwargs, training, mask), shortcut)
        return keras.KerasTensor(shortcut.shape, dtype=self.compute_dtype)

    def compute_output_shape(self, inputs_shape: Shape) -> Any:
        if self.shortcut is not None:
            return self.shortcut.compute_output_shape(inputs_shape)
        shapes: list[Any] = []
        tree.map_shape_structure(shapes.append, inputs_shape)
        return tuple(shapes[0])

    def compute_mask(self, inputs: Tensor, previous_mask: Tensor | None) -> Tensor | None:
        masks = tree.flatten(previous_mask)
        return masks[0] if masks else None

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "survival_probability": self.survival_probability,
            "mode": self.mode,
            "scale": self.scale,
            "layer_scale": self.layer_scale,
        }


def _symbol(value):
    """Returns a symbolic input like a tensor, and anything else as it is."""
    return keras.Input(batch_shape=value.shape, dtype=value.dtype) if hasattr(value, "shape") else value


def conditionals_are_slow():
    """Returns whether this is XLA on CPUs alone, where the gradient of a convolution in a conditional crawls."""
    tensorflow = on_tensorflow()
    if tensorflow is not None:
        return tensorflow.compiled_by_xla() and not tensorflow.has_accelerator()
    return keras.backend.backend() == "jax" and keras.distribution.list_devices()[0].startswith("cpu")
