"""Operations that change colours. Neighbours fuse into one matrix per image and one clip."""

import functools
import math
from typing import Any

import numpy as np
import tensorflow as tf

from kregkit._core.checks import check_number
from kregkit._core.types import ArrayLike, Tensor
from kregkit.data import _warp
from kregkit.data._arguments import register
from kregkit.data._random import normal
from kregkit.data.augment import Operation
from kregkit.data.standardization import image_batches

# Brightness as the eye weighs it (ITU-R BT.601), the weights of tf.image and PIL.
LUMA = np.array([0.299, 0.587, 0.114], "float32")


class Color(Operation):
    """An operation that is `y = x N + n` in each image, on colours as row vectors in [0, 1] units."""

    needs_range = True

    def transform(self, u: Tensor, channels: Tensor, mean: Tensor) -> Any:
        """Returns `(N, n)`, `(batch, channels, channels)` and `(batch, channels)`; or `None` for what it leaves out.

        Args:
            u: The draws, `(batch, num_draws)`.
            channels: Integer.
            mean: Callable that gives each image's mean colour before this operation, `(batch, channels)`.
        """
        raise NotImplementedError

    def fuses_after(self, group: Tensor) -> Any:
        return isinstance(group[-1], Color)

    def run(self, group: Tensor, images: Tensor, masks: Tensor, value_range: tuple[float, float], black: Tensor) -> Any:
        low, high = value_range
        channels = images.shape[-1]
        # To [0, 1] units and back, by the same matrix and offset.
        scale, shift = (1 / 255, 0.0) if images.dtype == tf.uint8 else (1 / (high - low), -low / (high - low))
        source_mean = functools.cache(lambda: _mean(images) * scale + shift)
        batch = tf.shape(images)[0]
        matrix = tf.tile(tf.eye(channels)[None], (batch, 1, 1))
        offset = tf.zeros((batch, channels))
        for operation, u in group:

            def mean(matrix=matrix, offset=offset):
                return tf.linalg.matvec(matrix, source_mean(), transpose_a=True) + offset

            factor, added = operation.transform(u, channels, mean)
            if factor is not None:
                matrix, offset = matrix @ factor, tf.linalg.matvec(factor, offset, transpose_a=True)
            offset = offset + added
        offset = (offset + shift * tf.reduce_sum(matrix, 1)) * (high - low) + low
        matrix = matrix * (scale * (high - low))

        def paint(images, matrix, offset):
            images = tf.cast(images, tf.float32)
            result = offset[:, None, None]
            for channel in range(channels):
                result = result + images[..., channel : channel + 1] * matrix[:, None, None, channel]
            return tf.clip_by_value(result, low, high)

        return _warp.compiled(paint, images)(images, matrix, offset), masks


def _luma(channels):
    return LUMA if channels == 3 else np.full((channels,), 1 / channels, "float32")


def _eye(channels):
    return tf.eye(channels)[None]


def _mean(images):
    """Returns each image's mean colour, `(batch, channels)`, in its own units."""
    height, width = _warp.sizes(images)
    channels = images.shape[-1]
    if images.dtype == tf.uint8:
        # Exact sums of integers. Whole rows are added to each other first, which XLA vectorises.
        def sums(images):
            rows = tf.reshape(images, (-1, height, width * channels))
            groups = [tf.cast(rows[:, start::8], tf.int32) for start in range(8)]
            few = tf.add_n([group[:, : height // 8] for group in groups])
            rest = tf.cast(rows[:, height // 8 * 8 :], tf.int32)
            rows = tf.reduce_sum(few, 1) + tf.reduce_sum(rest, 1)
            return tf.cast(tf.reduce_sum(tf.reshape(rows, (-1, width, channels)), 1), tf.float32)

        total = _warp.compiled(sums, images)(images)
    else:
        rows = tf.ones((1, height)) @ tf.reshape(tf.cast(images, tf.float32), (-1, height, width * channels))
        total = tf.reduce_sum(tf.reshape(rows, (-1, width, channels)), 1)
    return total / tf.cast(height * width, tf.float32)


@register
class ColorJitter(Color):
    """Changes brightness, contrast, saturation and hue, in this order, by factors drawn per image.

    With `l` the weights of brightness and `m` the image's mean colour at that point:

    - brightness: `y = b x`, `b ~ U(1 - brightness, 1 + brightness)`
    - contrast: `y = c x + (1 - c) <l, m>`, `c ~ U(1 - contrast, 1 + contrast)`
    - saturation: `y = s x + (1 - s) <l, x>`, `s ~ U(1 - saturation, 1 + saturation)`
    - hue: the colour plane (I, Q of YIQ) turned by `a`, `a ~ U(-hue, hue)` turns

    Each is linear in the colour, so that all of them are one matrix and one offset per image, and the result is
    clipped once. (Clipping after each, or turning the hue in HSV, as others do, differs where colours leave the
    range.) Images of one channel have no saturation and no hue: those draws leave them as they are.

    Args:
        brightness, contrast, saturation: Floats in [0, 1]. Default to `0.4`.
        hue: Float in [0, 0.5], in turns. Defaults to `0.0`.

    Example:

    >>> import numpy as np
    >>> from kregkit.data import ColorJitter
    >>> y = ColorJitter(0.4, 0.4, 0.4, 0.1)(np.full((2, 8, 8, 3), 100, "uint8"), key=0)
    >>> tuple(y.shape), y.dtype.name
    ((2, 8, 8, 3), 'float32')
    """

    num_draws = 4

    def __init__(
        self, brightness: float = 0.4, contrast: float = 0.4, saturation: float = 0.4, hue: float = 0.0
    ) -> None:
        self.brightness = check_number("brightness", brightness, 0, 1)
        self.contrast = check_number("contrast", contrast, 0, 1)
        self.saturation = check_number("saturation", saturation, 0, 1)
        self.hue = check_number("hue", hue, 0, 0.5)

    def transform(self, u: Tensor, channels: Tensor, mean: Tensor) -> Any:
        luma = _luma(channels)
        spread = 2 * u - 1
        brightness = 1 + self.brightness * spread[:, :1]
        contrast = 1 + self.contrast * spread[:, 1:2]
        offset = tf.zeros_like(brightness)
        if self.contrast:
            offset = (1 - contrast) * brightness * tf.reduce_sum(mean() * luma, -1, keepdims=True)
        matrix = (brightness * contrast)[:, :, None] * _eye(channels)
        # Grey has equal entries and `luma` sums to 1: saturation and hue leave the offset as it is.
        if channels == 3 and self.saturation:
            saturation = (1 + self.saturation * spread[:, 2:3])[:, :, None]
            matrix = matrix @ (saturation * _eye(3) + (1 - saturation) * tf.tile(luma[:, None], (1, 3)))
        if channels == 3 and self.hue:
            matrix = matrix @ _hue(2 * math.pi * self.hue * spread[:, 3])
        return matrix, tf.tile(offset, (1, channels))


_YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
# Exactly grey rows: I and Q of grey must be 0, or the hue would move it.
_YIQ[1:] -= _YIQ[1:].mean(1, keepdims=True)


def _hue(angle):
    cos, sin, zero, ones = tf.cos(angle), tf.sin(angle), tf.zeros_like(angle), tf.ones_like(angle)
    turn = tf.reshape(tf.stack([ones, zero, zero, zero, cos, -sin, zero, sin, cos], -1), (-1, 3, 3))
    return tf.constant(_YIQ.T, tf.float32) @ turn @ tf.constant(np.linalg.inv(_YIQ).T, tf.float32)


@register
class PCAColorNoise(Color):
    """Shifts each image's colour along the principal axes of the training set's colours: AlexNet's "fancy PCA".

    `y = x + [p1 p2 p3] [a1 l1, a2 l2, a3 l3]^T`, `a_i ~ N(0, std)` per image, where `p_i` and `l_i` are eigenvectors
    and eigenvalues of the covariance of the training set's RGB values in [0, 1] units. (`l` is measured in squared
    units, so the formula holds in these units only; in 0..255 the same `std` would give noise 255 times as strong.)

    Args:
        std: Float >= 0. Defaults to `0.1`.
        eigenvalues: Sequence of 3 floats, or `None` (the default) until `fit` is called.
        eigenvectors: 3x3 nested sequence, an eigenvector in each column, or `None`.

    Raises:
        ValueError: if it is applied before `fit`, or to images that haven't three channels.

    Example:

    >>> import numpy as np
    >>> from kregkit.data import PCAColorNoise
    >>> images = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 3), dtype="uint8")
    >>> noise = PCAColorNoise().fit(images)
    >>> tuple(noise(images, key=0).shape)
    (16, 8, 8, 3)

    Reference: [Krizhevsky, Sutskever and Hinton, 2012](https://papers.nips.cc/paper/4824), section 4.1
    """

    num_draws = 6

    def __init__(
        self, std: float = 0.1, eigenvalues: ArrayLike | None = None, eigenvectors: ArrayLike | None = None
    ) -> None:
        self.std = check_number("std", std, 0)
        for name, value, shape in (("eigenvalues", eigenvalues, (3,)), ("eigenvectors", eigenvectors, (3, 3))):
            if value is not None and np.shape(value) != shape:
                raise ValueError(f"`{name}` must have the shape {shape}. Received: {name}={value!r}")
        if (eigenvalues is None) != (eigenvectors is None):
            raise ValueError(
                f"`eigenvalues` and `eigenvectors` must be given together. Received: eigenvalues={eigenvalues!r}"
            )
        self.eigenvalues = eigenvalues
        self.eigenvectors = eigenvectors

    def fit(self, dataset: Any) -> Any:
        """Measures the colours of a training set, one batch in memory at a time, and returns `self`.

        Args:
            dataset: Array `(num, h, w, 3)`, or an iterable (such as a `tf.data.Dataset`, or what `image_folder`
                returns) of images, of batches of images, or of tuples or dictionaries whose first entry or `"image"`
                is that; uint8, or floats in [0, 1].
        """
        total, product, count = np.zeros(3), np.zeros((3, 3)), 0
        for images in image_batches(dataset):
            if images.shape[-1] != 3:
                raise ValueError(f"`dataset` must hold images of three channels. Received: shape={images.shape}")
            pixels = images.reshape(-1, 3).astype("float64")
            total, product, count = total + pixels.sum(0), product + pixels.T @ pixels, count + len(pixels)
        mean = total / count
        values, vectors = np.linalg.eigh(product / count - np.outer(mean, mean))
        self.eigenvalues = np.maximum(values, 0).tolist()
        self.eigenvectors = vectors.tolist()
        return self

    def transform(self, u: Tensor, channels: Tensor, mean: Tensor) -> Any:
        if self.eigenvalues is None:
            raise ValueError("`PCAColorNoise` must be fitted first: `.fit(dataset)`. Received: eigenvalues=None")
        if channels != 3:
            raise ValueError(f"`PCAColorNoise` needs images of three channels. Received: channels={channels}")
        noise = self.std * normal(u) * np.asarray(self.eigenvalues, "float32")
        return None, noise @ np.asarray(self.eigenvectors, "float32").T
