"""Fractional max pooling: regions of changing size, drawn anew at every step."""

from typing import Any

import keras
import numpy as np
from keras import ops

from kregkit._core.checks import check_choice, check_integer, check_number
from kregkit._core.types import Tensor
from kregkit.layers._noise import NoisyLayer
from kregkit.layers.region_pooling import fractional_max_pool, spatial_sizes


def pseudorandom_boundaries(size: Any, outputs: int, draw: Tensor):
    """Returns Graham's pseudorandom sequence, in integers alone: `s_i = ceil(a (i + u)) - 1`, `a = size / outputs`.

    `u` is capped, as TensorFlow does it, so that the first and the last increment are among `floor(a), ceil(a)` too.
    Only `t = ceil(size u)` matters: `a (i + u) = (size i + size u) / outputs`, and the ceiling of an integer plus
    `size u` over an integer is that with `t` in place of `size u`. A uniform `u` below its cap is a uniform integer
    `t` in `1 ... num_draws(size, outputs)`.

    Args:
        size: Integer, the axis's length.
        outputs: Integer in `[1, size]`, the number of regions.
        draw: Integer array or tensor `t` of any shape.

    Returns:
        Integer array or tensor of `draw`'s shape with an axis of `outputs + 1` more.
    """
    index = np.arange(1, outputs, dtype="int32")
    whole, part = np.divmod(size * index.astype("int64"), outputs)
    whole, part = whole.astype("int32"), part.astype("int32")
    if isinstance(draw, (int, np.ndarray)):
        draw = np.asarray(draw)[..., None]
        inner = whole + (part + draw + outputs - 1) // outputs - 1
        edge = np.zeros_like(draw)
        return np.concatenate([edge, inner, edge + size], axis=-1)
    # As tensors: PyTorch's don't mix with arrays.
    draw, whole, part = draw[..., None], ops.convert_to_tensor(whole), ops.convert_to_tensor(part)
    inner = whole + (part + draw + outputs - 1) // outputs - 1
    edge = ops.zeros_like(draw)
    return ops.concatenate([edge, inner, edge + size], axis=-1)


def num_draws(size: Any, outputs: int):
    """Returns the number of values of `t` for which all increments are right; see `pseudorandom_boundaries`."""
    rest = size % outputs
    return outputs + min(rest, outputs - rest)


def random_boundaries(size: Any, outputs: int, noise: Tensor):
    """Returns Graham's random sequence: the increments `floor(a)` and `ceil(a)` in an order shuffled by `noise`.

    Args:
        size, outputs: Integers, `a = size / outputs`.
        noise: Tensor `(..., outputs)` of independent numbers.
    """
    small, rest = divmod(size, outputs)
    increments = small + ops.cast(ops.argsort(noise, axis=-1) < rest, "int32")
    edge = ops.zeros_like(increments[..., :1])
    return ops.concatenate([edge, ops.cumsum(increments, axis=-1)], axis=-1)


class _FractionalMaxPooling(NoisyLayer):
    """The base class of the layers for one, two and three axes; `num_axes` says which."""

    num_axes: int

    def __init__(
        self,
        pool_ratio=None,
        regions="pseudorandom",
        overlapping=True,
        share="batch",
        output_size=None,
        data_format=None,
        seed=None,
        **kwargs,
    ):
        if (pool_ratio is None) == (output_size is None):
            raise ValueError(
                "Exactly one of `pool_ratio` and `output_size` must be given. "
                f"Received: pool_ratio={pool_ratio!r}, output_size={output_size!r}"
            )
        check_choice("regions", regions, ("pseudorandom", "random"))
        check_choice("overlapping", overlapping, (True, False))
        check_choice("share", share, ("batch", "example", "channel"))
        if data_format is not None:
            check_choice("data_format", data_format, ("channels_last", "channels_first"))
        for ratio in self._per_axis("pool_ratio", pool_ratio):
            check_number("pool_ratio", ratio, 1)
        for size in self._per_axis("output_size", output_size):
            check_integer("output_size", size, 1)
        super().__init__(seed=seed, **kwargs)
        self.pool_ratio = pool_ratio
        self.regions = regions
        self.overlapping = overlapping
        self.share = share
        self.output_size = output_size
        self.data_format = data_format or keras.config.image_data_format()
        self.input_spec = keras.layers.InputSpec(ndim=self.num_axes + 2)

    def _per_axis(self, name, value):
        if value is None:
            return []
        if not isinstance(value, (list, tuple)):
            return [value] * self.num_axes
        if len(value) != self.num_axes:
            raise ValueError(
                f"`{name}` must be one number, or one for each of {self.num_axes} axes. Received: {name}={value!r}"
            )
        return list(value)

    def _outputs(self, sizes):
        """Returns the number of regions along each axis; None where the axis's length isn't known."""
        if self.output_size is None:
            ratios = self._per_axis("pool_ratio", self.pool_ratio)
            # The small term: 64 / (64 / 45) must be 45.
            return [None if size is None else max(1, int(size / ratio + 1e-6)) for size, ratio in zip(sizes, ratios)]
        outputs = self._per_axis("output_size", self.output_size)
        if any(size is not None and size < output for size, output in zip(sizes, outputs)):
            raise ValueError(
                f"`output_size` must not exceed the input's, which is {tuple(sizes)}. "
                f"Received: output_size={self.output_size!r}"
            )
        return outputs

    def call(self, inputs, training=None):
        if training:
            return self.draw_call(inputs, training=training)
        sizes = spatial_sizes(inputs.shape, self.data_format)
        fixed = [
            pseudorandom_boundaries(size, outputs, (num_draws(size, outputs) + 1) // 2)
            for size, outputs in zip(sizes, self._outputs(sizes))
        ]
        # Not compiled apart, so that an exported model holds nothing but plain operations.
        return fractional_max_pool(inputs, fixed, self.overlapping, self.data_format, compiled=False)

    def draw_call(self, inputs, training=None):
        sizes = spatial_sizes(inputs.shape, self.data_format)
        shape = ops.shape(inputs)
        channels = shape[-1] if self.data_format == "channels_last" else shape[1]
        regions_per = self.share
        if regions_per == "batch" and self.noise_source is not None:
            # At test time each example and draw has regions of its own, so that draws can share a batch.
            regions_per = "example"
        groups = {"batch": (), "example": (shape[0],), "channel": (shape[0], channels)}[regions_per]
        drawn = [self._draw(size, outputs, groups) for size, outputs in zip(sizes, self._outputs(sizes))]
        return fractional_max_pool(inputs, drawn, self.overlapping, self.data_format)

    def _draw(self, size, outputs, groups):
        if self.regions == "random":
            return random_boundaries(size, outputs, self.uniform((*groups, outputs)))
        count = num_draws(size, outputs)
        draw = ops.cast(ops.floor(self.uniform(groups) * count), "int32")
        return pseudorandom_boundaries(size, outputs, 1 + ops.minimum(draw, count - 1))

    def compute_output_shape(self, input_shape):
        if self.data_format == "channels_last":
            return (input_shape[0], *self._outputs(input_shape[1:-1]), input_shape[-1])
        return (*input_shape[:2], *self._outputs(input_shape[2:]))

    def get_config(self):
        return {
            **super().get_config(),
            "pool_ratio": self.pool_ratio,
            "regions": self.regions,
            "overlapping": self.overlapping,
            "share": self.share,
            "output_size": self.output_size,
            "data_format": self.data_format,
        }


_DOCSTRING = """Takes the maximum over {what} of alternating size, `ratio` long on average, drawn anew at every step.

    Along each axis, of length `n`, `N = floor(n / ratio)` windows, or one, lie between boundaries
    `0 = s_0 < ... < s_N = n`, whose increments are `floor(n / N)` and `ceil(n / N)`: 1 and 2 for ratios in (1, 2), the
    paper's range. Axes are drawn independently. The paper counts its last boundary such that the last entry would
    belong to no disjoint window; here, as in TensorFlow, every entry belongs to one.

    - `regions="random"`: the increments in shuffled order.
    - `regions="pseudorandom"`: `s_i = ceil(n / N (i + u)) - 1`, `u` uniform below the cap that keeps the first and the
      last increment right. Neighbouring windows differ less, so that images are distorted less.

    Inference uses one fixed set of regions, whatever `regions` and `seed` are: the pseudorandom regions at the middle
    of `u`'s range, the same at every call and in every process. The paper shows that the mean prediction over several
    draws is better: `kregkit.inference.marginalize` computes it.

    Keras has no such layer. TensorFlow's operation runs on CPUs alone, without XLA and half precision.

    Args:
        pool_ratio: Float >= 1, or one for each axis: the input's over the output's length.
        regions: `"pseudorandom"` or `"random"`. Defaults to `"pseudorandom"`.
        overlapping: Boolean, whether a window includes the next one's first entry. Defaults to `True`, which the paper
            finds better.
        share: `"batch"` to draw one set of regions for the batch, `"example"` for one set per example, `"channel"` for
            one per channel of each example (as PyTorch does). Defaults to `"batch"`.
        output_size: Integer, or one for each axis: `N`, in place of `pool_ratio`. Defaults to None.
        data_format: `"channels_last"` or `"channels_first"`. Defaults to Keras's setting.
        seed: Integer >= 0 or None, seeds the draws. Defaults to None, a random seed.

    Input shape: `(batch, {axes}, channels)` or `(batch, channels, {axes})`; the spatial axes' lengths must be known.
    Output shape: the same with `N` in place of each length.

    Raises:
        ValueError: for an argument outside its range, and for an input whose spatial axes have unknown lengths.

    Example:

    >>> x = keras.random.normal((2, {example}, 3))
    >>> tuple(FractionalMaxPooling{num}D(1.5, data_format="channels_last")(x, training=True).shape)
    (2, {result}, 3)

    Reference: [Graham, 2014](https://arxiv.org/abs/1412.6071)
    """


@keras.saving.register_keras_serializable(package="kregkit")
class FractionalMaxPooling1D(_FractionalMaxPooling):
    __doc__ = _DOCSTRING.format(what="stretches", axes="length", example="12", result="8", num=1)
    num_axes = 1


@keras.saving.register_keras_serializable(package="kregkit")
class FractionalMaxPooling2D(_FractionalMaxPooling):
    __doc__ = _DOCSTRING.format(what="rectangles", axes="height, width", example="12, 9", result="8, 6", num=2)
    num_axes = 2


@keras.saving.register_keras_serializable(package="kregkit")
class FractionalMaxPooling3D(_FractionalMaxPooling):
    __doc__ = _DOCSTRING.format(what="boxes", axes="depth, height, width", example="6, 12, 9", result="4, 8, 6", num=3)
    num_axes = 3
