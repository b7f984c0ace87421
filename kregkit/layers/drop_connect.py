"""DropConnect: weights, in place of activations, that are dropped at random while training."""

import math
import statistics
from typing import Any, Literal

import keras
import numpy as np
from keras import ops

from kregkit._core.checks import check_choice, check_integer, check_number
from kregkit._core.types import Shape, Tensor
from kregkit.layers._hash import hashed_choice, hashed_uniform, mixed_key
from kregkit.layers._noise import NoisyLayer, is_surely
from kregkit.layers._recurrent_masks import RECURRENT, RecurrentMasks, check_recurrent

_CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
_WRAPPED = (keras.layers.Dense, keras.layers.EinsumDense, *_CONVOLUTIONS, *RECURRENT)


@keras.saving.register_keras_serializable(package="kregkit")
class DropConnect(NoisyLayer):
    """Computes `activation((M * W) v + m * b) / p`, the division inside, with masks `M, m ~ Bernoulli(p = 1 - rate)`.

    That is, training computes `activation(((M / p) * W) v + (m / p) * b)`: inverted, as Keras's Dropout is, so that
    inference uses the weights as they are. Gradients are masked as the weights are.

    `mask` says which examples share a mask:

    - `"example"`: none, at the cost of two products and without `batch x in x out` memory. One matrix `R` of random
      signs is drawn for the batch, and turned for each example by random signs `s` on its inputs and `r` on its
      outputs: `M = (1 + R * r s^T) / 2`. At rate 0.5, every example's mask is exactly Bernoulli, and independent from
      entry to entry; masks of different examples depend on each other through `R` (any two agree in all entries up to
      signs). At other rates, `R` is the shared mask's deviation from its mean: the outputs' mean, variance and
      covariance over an example are exact, higher moments are not. Bias masks are exact at any rate, and independent.
    - `"batch"`: all examples of a mini-batch. The cheapest: one product.
    - `"exact"`: none, and masks are independent. A loop draws them one example at a time, so that a single mask is in
      memory at once. Slow; meant for checking the others.

    A seed gives the same masks eagerly, in a graph and under XLA. Keras's Dropout on the inputs drops whole rows of
    `W`; this drops single entries.

    Around `LSTM`, `GRU` and `SimpleRNN` the recurrent kernel is dropped, with `input_kernel=True` the input kernel too,
    and no bias: `h_t = f(K x_t + (M / p * U) h_(t-1) + b)`. A mask holds for all steps of a sequence. The
    weight-dropped LSTM of Merity et al. shares it among the sequences of a batch: that is `mask="batch"`, which adds
    one product of two matrices' entries to the plain layer. `"example"` and `"exact"` are as above.

    Inference:

    - `"mean"`: the layer as it is, `activation(W v + b)`.
    - `"gaussian"`: the mean of `activation(u)` over `u ~ N(W v + b, rate / p * ((W * W)(v * v) + b * b))`, the
      paper's. Linear and ReLU activations have it in closed form (`mu Phi(mu / sigma) + sigma phi(mu / sigma)`);
      others take the mean of `draws` samples, stratified per unit (a Latin hypercube), the same at every call, for
      every example and every position.

    Args:
        layer: A `Dense`, `EinsumDense`, `Conv1D`, `Conv2D`, `Conv3D`, `LSTM`, `GRU` or `SimpleRNN` layer, built or
            not. It keeps its weights and their names, and can be called without the wrapper at any time. A recurrent
            one without dropout of its own.
        rate: Float in [0, 1), the fraction of weights dropped. Defaults to 0.5.
        mask: `"example"`, `"batch"` or `"exact"`. Defaults to `"example"`.
        inference: `"mean"` or `"gaussian"`, which recurrent layers don't have. Defaults to `"mean"`.
        draws: Integer >= 1, the samples for `inference="gaussian"` where there is no closed form. Defaults to 16.
        seed: Integer >= 0 or None, seeds the masks. Defaults to None, a random seed.
        input_kernel: Boolean, whether a recurrent layer's input kernel is dropped too. Defaults to False.

    Call arguments:
        inputs: Tensor, whose first axis is the examples'.
        training: Boolean, whether to draw masks.
        initial_state: For a recurrent layer, as it takes it.
        mask: For a recurrent layer, the steps that count.

    Input shape, output shape: the wrapped layer's.

    Raises:
        ValueError: for an argument outside its range, and for layers of other classes, quantized ones and transposed
            or depthwise convolutions among them.

    Example:

    >>> layer = DropConnect(keras.layers.Dense(4, activation="relu"), rate=0.5)
    >>> tuple(layer(keras.ops.ones((2, 3)), training=True).shape)
    (2, 4)

    Reference: [Wan et al., 2013](https://proceedings.mlr.press/v28/wan13.html); the signs are those of
    [Wen et al., 2018](https://arxiv.org/abs/1803.04386), recurrent kernels those of
    [Merity et al., 2018](https://arxiv.org/abs/1708.02182).
    """

    wrapped = ("layer",)
    rate_attribute = "rate"

    def __init__(
        self,
        layer: keras.layers.Layer,
        rate: float = 0.5,
        mask: Literal["example", "batch", "exact"] = "example",
        inference: Literal["mean", "gaussian"] = "mean",
        draws: int = 16,
        seed: int | None = None,
        input_kernel: bool = False,
        **kwargs: Any,
    ) -> None:
        if not isinstance(layer, _WRAPPED):
            names = ", ".join(wrapped.__name__ for wrapped in _WRAPPED)
            raise ValueError(f"`layer` must be one of {names}. Received: layer={layer!r}")
        if getattr(layer, "quantization_mode", None) is not None:
            raise ValueError(f"`layer` must not be quantized. Received: layer={layer!r}")
        check_number("rate", rate, 0, 1, high_open=True)
        check_choice("mask", mask, ("example", "batch", "exact"))
        check_choice("inference", inference, ("mean", "gaussian"))
        check_integer("draws", draws, low=1)
        check_choice("input_kernel", input_kernel, (True, False))
        recurrent = isinstance(layer, RECURRENT)
        if recurrent:
            check_recurrent(layer, mask, inference)
        elif input_kernel:
            raise ValueError(f"Only recurrent layers have an `input_kernel`. Received: input_kernel={input_kernel}")
        kwargs.setdefault("dtype", layer.dtype_policy)
        super().__init__(seed=seed, **kwargs)
        if recurrent and self.compute_dtype != layer.compute_dtype:
            raise ValueError(f"A recurrent layer keeps its own dtype. Received: dtype={self.compute_dtype!r}")
        self.input_kernel = input_kernel
        self._recurrent = recurrent
        self.layer = layer
        self.rate = rate
        self.mask = mask
        self.inference = inference
        self.draws = draws
        self.supports_masking = layer.supports_masking

    def build(self, inputs_shape: Shape, initial_state_shape: Shape | None = None) -> None:
        if not self.layer.built:
            self.layer.build(inputs_shape)

    def call(
        self, inputs: Tensor, training: bool | None = None, initial_state: Tensor = None, mask: Tensor | None = None
    ) -> Tensor:
        if training:
            return self.draw_call(inputs, training=training, initial_state=initial_state, mask=mask)
        if self._recurrent:
            return self.layer(inputs, initial_state=initial_state, mask=mask, training=training)
        return self._without_mask(inputs) if self.inference == "mean" else self.expected_call(inputs)

    def draw_call(
        self, inputs: Tensor, training: bool | None = None, initial_state: Tensor = None, mask: Tensor | None = None
    ) -> Tensor:
        if self._recurrent:
            return self._draw_recurrent(inputs, training, initial_state, mask)
        if is_surely(self.rate, 0):
            return self._without_mask(inputs)
        inputs = ops.cast(inputs, self.compute_dtype)
        kernel = ops.cast(self.layer.kernel, self.compute_dtype)
        shares = self._who_shares()
        draw = {"example": self._draw_example, "batch": self._draw_batch, "exact": self._draw_exact}[shares]
        outputs = draw(inputs, kernel)
        if self.layer.bias is not None:
            bias = ops.cast(self.layer.bias, self.compute_dtype)
            factor = self._bias_factor(ops.shape(inputs)[0], shared=shares == "batch")
            outputs = outputs + self._behind_examples(bias * factor, outputs)
        return self._with_activity_loss(self._activate(outputs))

    def _who_shares(self):
        """Returns `mask`, but `"batch"` where all examples of a draw share it: that is one mask for the batch."""
        return "batch" if self.noise_source is not None and self.noise_source.shared else self.mask

    def _draw_recurrent(self, inputs, training, initial_state, mask):
        arguments = {"inputs": inputs, "initial_state": initial_state, "mask": mask}
        masks = RecurrentMasks(self, ops.shape(inputs)[0], training)
        draw = {"example": masks.draw_example, "batch": masks.draw_batch, "exact": masks.draw_exact}
        return masks.draw_nothing(arguments) if is_surely(self.rate, 0) else draw[self._who_shares()](arguments)

    @property
    def expected_call(self) -> Tensor:
        """A function that returns the mean over masks by the paper's Gaussian, whatever `inference` says.

        A recurrent kernel's mean isn't known, so that there the attribute is missing.
        """
        if self._recurrent:
            raise AttributeError("The mean over the masks of a recurrent kernel isn't known")
        return self._expected_call

    def _expected_call(self, inputs, training=None, mask=None):
        if is_surely(self.rate, 0) or self._activation() == "linear":
            return self._without_mask(inputs)
        return self._with_activity_loss(self._gaussian(inputs))

    def _without_mask(self, inputs):
        """Returns what the wrapped layer computes, in this layer's precision."""
        if self.compute_dtype == self.layer.compute_dtype:
            return self.layer(inputs)
        outputs = self._product(ops.cast(inputs, self.compute_dtype), ops.cast(self.layer.kernel, self.compute_dtype))
        if self.layer.bias is not None:
            bias = ops.cast(self.layer.bias, self.compute_dtype)[None]
            outputs = outputs + self._behind_examples(bias, outputs)
        return self._with_activity_loss(self._activate(outputs))

    def _with_activity_loss(self, outputs):
        """Returns the outputs, after adding the loss that the wrapped layer adds where it is called itself."""
        regularizer = self.layer.activity_regularizer
        if regularizer is not None:
            loss = regularizer(outputs)
            self.add_loss(loss / ops.cast(ops.shape(outputs)[0], loss.dtype))
        return outputs

    def factor(self, shape: Shape, key: Tensor) -> Tensor:
        """Returns a mask over `p`: 0 or `1 / (1 - rate)`."""
        return hashed_choice(key, shape, self.rate, 0.0, 1 / (1 - self.rate), self.compute_dtype)

    def kernel_factor(self, shape: Shape, per_replica: bool = True) -> Tensor:
        """Returns a mask of a kernel over `p`, with an axis of draws in front where a noise source draws it."""
        if self.noise_source is None:
            return self.factor(shape, self.next_key(per_replica))
        return self._factor_of(self.noise_source.uniform_per_draw(shape))

    def _bias_factor(self, rows, shared):
        """Returns masks of the bias over `p`: one for each row, or one for all where that is the same."""
        shape, source = tuple(self.layer.bias.shape), self.noise_source
        if source is None:
            return self.factor((1 if shared else rows, *shape), self.next_key(per_replica=not shared))
        if shared:
            return ops.repeat(self._factor_of(source.uniform_per_draw(shape)), rows // source.num_draws, axis=0)
        return self._factor_of(source.uniform((rows, *shape)))

    def _factor_of(self, uniform):
        return ops.cast(ops.where(uniform < self.rate, 0.0, 1 / (1 - self.rate)), self.compute_dtype)

    def uniform(self, shape: Shape, per_replica: bool = True) -> Tensor:
        return hashed_uniform(self.next_key(per_replica), shape)

    def signs(self, shape: Shape) -> Tensor:
        """Returns random numbers 1 and -1; the first axis is the rows'."""
        return 2 * ops.cast(self.uniform(shape) < 0.5, self.compute_dtype) - 1

    def _draw_example(self, inputs, kernel):
        deviation = self.kernel_factor(tuple(kernel.shape)) - 1
        into, out_of = self._sign_shapes(inputs)
        turned = self._product(inputs * self.signs(into), kernel * deviation)
        return self._product(inputs, kernel) + turned * self.signs(out_of)

    def _draw_batch(self, inputs, kernel):
        return self._product(inputs, kernel * self.kernel_factor(tuple(kernel.shape), per_replica=False))

    def _draw_exact(self, inputs, kernel):
        key = self.next_key()
        rows = ops.shape(inputs)[0]
        # At test time an example has its number in the data set, whatever batch it is in.
        numbers = ops.arange(rows, dtype="int32") if self.noise_source is None else self.noise_source.examples()

        def masked_product(element):
            example, number = element
            masked = kernel * self.factor(tuple(kernel.shape), mixed_key(key, number))
            return self._product(example[None], masked)[0]

        return ops.map(masked_product, (inputs, numbers))

    def _product(self, inputs, kernel):
        """Returns what the wrapped layer computes before bias and activation, with another kernel, or one per draw."""
        layer = self.layer
        if len(kernel.shape) > len(layer.kernel.shape):
            draws = self.noise_source.num_draws
            parts = zip(ops.split(inputs, draws), ops.unstack(kernel, draws))
            return ops.concatenate([self._product(*part) for part in parts], axis=0)
        if isinstance(layer, keras.layers.Dense):
            return ops.matmul(inputs, kernel)
        if isinstance(layer, keras.layers.EinsumDense):
            return ops.einsum(layer.equation, inputs, kernel)
        padding = layer.padding
        if padding == "causal":
            padding = "valid"
            past = (layer.dilation_rate[0] * (layer.kernel_size[0] - 1), 0)
            last = layer.data_format == "channels_last"
            inputs = ops.pad(inputs, ((0, 0), past, (0, 0)) if last else ((0, 0), (0, 0), past))
        return ops.conv(
            inputs,
            kernel,
            strides=list(layer.strides),
            padding=padding,
            dilation_rate=layer.dilation_rate,
            data_format=layer.data_format,
        )

    def _sign_shapes(self, inputs):
        """Returns the shapes of an example's signs on its inputs and on its outputs: 1 where the kernel is shared."""
        layer, examples, rank = self.layer, ops.shape(inputs)[0], len(inputs.shape)
        if isinstance(layer, keras.layers.EinsumDense):
            sources, target = layer.equation.replace(" ", "").split("->")
            source, weights = sources.split(",")
            output = layer.compute_output_shape(inputs.shape)
            return (
                (examples, *_sizes_in(source, weights, inputs.shape)[1:]),
                (examples, *_sizes_in(target, weights, output)[1:]),
            )
        ones = [1] * (rank - 2)
        if isinstance(layer, keras.layers.Dense):
            return (examples, *ones, inputs.shape[-1]), (examples, *ones, layer.units)
        if layer.data_format == "channels_last":
            return (examples, *ones, inputs.shape[-1]), (examples, *ones, layer.filters)
        return (examples, inputs.shape[1], *ones), (examples, layer.filters, *ones)

    def _behind_examples(self, bias, outputs):
        """Returns `(examples, ...)` biases, shaped to be added to the outputs."""
        ones = [1] * (len(outputs.shape) - len(bias.shape))
        shape = tuple(bias.shape)[1:]
        if isinstance(self.layer, _CONVOLUTIONS) and self.layer.data_format == "channels_first":
            return ops.reshape(bias, (-1, *shape, *ones))
        return ops.reshape(bias, (-1, *ones, *shape))

    def _activation(self):
        activation = self.layer.activation
        if activation is None or activation is keras.activations.linear:
            return "linear"
        return "relu" if activation is keras.activations.relu else "other"

    def _activate(self, outputs):
        return outputs if self.layer.activation is None else self.layer.activation(outputs)

    def _gaussian(self, inputs):
        # At least in float32: squares leave the range of float16, and the ratio of two of its small numbers is noise.
        dtype = "float64" if self.compute_dtype == "float64" else "float32"
        inputs, kernel = ops.cast(inputs, dtype), ops.cast(self.layer.kernel, dtype)
        mean, variance = self._product(inputs, kernel), self._product(ops.square(inputs), ops.square(kernel))
        if self.layer.bias is not None:
            bias = ops.cast(self.layer.bias, dtype)[None]
            mean = mean + self._behind_examples(bias, mean)
            variance = variance + self._behind_examples(ops.square(bias), mean)
        deviation = ops.sqrt(ops.maximum(variance, 1e-20) * (self.rate / (1 - self.rate)))
        if self._activation() == "relu":
            z = mean / deviation
            below = 0.5 * ops.erfc(-z / math.sqrt(2)) if hasattr(ops, "erfc") else 0.5 * (1 + ops.erf(z / math.sqrt(2)))
            density = ops.exp(-0.5 * ops.square(z)) / math.sqrt(2 * math.pi)
            return ops.cast(mean * below + deviation * density, self.compute_dtype)
        units = tuple(self.layer.bias.shape) if self.layer.bias is not None else (mean.shape[self._unit_axis()],)
        total = 0.0
        for noise in _latin_hypercube(self.draws, units):
            noise = self._behind_examples(ops.convert_to_tensor(noise[None], dtype), mean)
            total = total + ops.cast(self._activate(mean + deviation * noise), dtype)
        return ops.cast(total / self.draws, self.compute_dtype)

    def _unit_axis(self):
        convolution = isinstance(self.layer, _CONVOLUTIONS)
        return 1 if convolution and self.layer.data_format == "channels_first" else -1

    def compute_output_shape(self, inputs_shape: Shape, initial_state_shape: Shape | None = None) -> Any:
        return self.layer.compute_output_shape(inputs_shape)

    def compute_mask(self, inputs: Tensor, previous_mask: Tensor | None) -> Tensor | None:
        if self._recurrent:
            return self.layer.compute_mask(inputs, previous_mask)
        return super().compute_mask(inputs, previous_mask)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "rate": self.rate,
            "mask": self.mask,
            "inference": self.inference,
            "draws": self.draws,
            "input_kernel": self.input_kernel,
        }


def _sizes_in(labels, weights, shape):
    """Returns `shape` with 1 for each axis whose label isn't among those of `weights`; `...` stands for any."""
    before, _, behind = labels.partition("...")
    sizes = [size if label in weights else 1 for label, size in zip(before, shape)]
    sizes += [1] * (len(shape) - len(before) - len(behind))
    start = len(shape) - len(behind)
    return sizes + [size if label in weights else 1 for label, size in zip(behind, shape[start:])]


def _latin_hypercube(draws, units):
    """Returns float32 `(draws, *units)`: in each unit, the means of the normal law's `draws` equal slices, shuffled."""
    normal = statistics.NormalDist()
    edges = [normal.pdf(normal.inv_cdf(index / draws)) for index in range(1, draws)]
    slices = draws * -np.diff([0.0, *edges, 0.0])
    random = np.random.default_rng(0)
    return random.permuted(np.tile(slices, (math.prod(units), 1)), axis=1).T.reshape(draws, *units).astype("float32")
