"""Operations that change colours. Neighbours fuse into one matrix per image and one clip."""

import math

import numpy as np
import tensorflow as tf

from kregkit._core.checks import check_choice, check_number
from kregkit.data._operation import Operation, register

# Brightness as the eye weighs it (ITU-R BT.601), the weights of tf.image and PIL.
LUMA = np.array([0.299, 0.587, 0.114], "float32")


class Color(Operation):
    """An operation that is `y = x N + n` in each image, on colours as row vectors in [0, 1] units."""

    def transform(self, u, channels, mean):
        """Returns `(N, n)`, `(batch, channels, channels)` and `(batch, channels)`; or `None` for what it leaves out.

        Args:
            u: The draws, `(batch, num_draws)`.
            channels: Integer.
            mean: Callable that gives each image's mean colour before this operation, `(batch, channels)`.
        """
        raise NotImplementedError


def _luma(channels):
    return LUMA if channels == 3 else np.full((channels,), 1 / channels, "float32")


def _eye(channels):
    return tf.eye(channels)[None]


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

    def __init__(self, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.0):
        self.brightness = check_number("brightness", brightness, 0, 1)
        self.contrast = check_number("contrast", contrast, 0, 1)
        self.saturation = check_number("saturation", saturation, 0, 1)
        self.hue = check_number("hue", hue, 0, 0.5)

    def transform(self, u, channels, mean):
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
    cos, sin, zero, one = tf.cos(angle), tf.sin(angle), tf.zeros_like(angle), tf.ones_like(angle)
    turn = tf.reshape(tf.stack([one, zero, zero, zero, cos, -sin, zero, sin, cos], -1), (-1, 3, 3))
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

    def __init__(self, std=0.1, eigenvalues=None, eigenvectors=None):
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

    def fit(self, dataset):
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

    def transform(self, u, channels, mean):
        if self.eigenvalues is None:
            raise ValueError("`PCAColorNoise` must be fitted first: `.fit(dataset)`. Received: eigenvalues=None")
        if channels != 3:
            raise ValueError(f"`PCAColorNoise` needs images of three channels. Received: channels={channels}")
        from kregkit.data._random import normal

        noise = self.std * normal(u) * np.asarray(self.eigenvalues, "float32")
        return None, noise @ np.asarray(self.eigenvectors, "float32").T


@register
class Standardize(Operation):
    """Centres images by the training set's mean, and scales them if asked: `y = (x - mean) / std`.

    It is preprocessing: the same at training and at test time. The result is not clipped, so no operation on colours
    may follow it.

    Args:
        mean: `"channel"` (the default), one number per channel, or `"image"`, one per pixel and channel.
        scale: Boolean, whether to divide by the standard deviation, one number per channel. Defaults to `True`.
            Images are often only centred, since their features share one scale already.
        mean_value: Nested list, what `fit` measures, in [0, 1] units; `None` (the default) until then.
        std_value: List of one number per channel, likewise.

    Raises:
        ValueError: if it is applied before `fit`, or to images of another shape than it was fitted to.

    Example:

    >>> import numpy as np
    >>> from kregkit.data import Standardize
    >>> images = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 3), dtype="uint8")
    >>> y = Standardize().fit(images)(images)
    >>> bool(abs(float(y.numpy().mean())) < 1e-6), round(float(y.numpy().std()), 3)
    (True, 1.0)
    """

    random = False

    def __init__(self, mean="channel", scale=True, mean_value=None, std_value=None):
        self.mean = check_choice("mean", mean, ("channel", "image"))
        self.scale = check_choice("scale", scale, (True, False))
        self.mean_value = mean_value
        self.std_value = std_value

    def fit(self, dataset):
        """Measures a training set in float64, one batch in memory at a time, and returns `self`.

        Args:
            dataset: As for `PCAColorNoise.fit`, with any number of channels. With `mean="image"` all images must
                have the same size.
        """
        total = square = 0.0
        count = 0
        for images in image_batches(dataset):
            pixels = images.astype("float64")
            if self.mean == "channel":
                pixels = pixels.reshape(-1, pixels.shape[-1])
            elif count and pixels.shape[1:] != np.shape(total):
                raise ValueError(
                    "`mean='image'` needs images of one size. "
                    f"Received: shape={pixels.shape[1:]} after {np.shape(total)}"
                )
            # Around the first batch's mean, so that squares don't cancel.
            origin = pixels.mean(0) if not count else origin  # noqa: F821
            pixels = pixels - origin
            total, square, count = total + pixels.sum(0), square + (pixels**2).sum(0), count + len(pixels)
        shift = total / count
        variance = square / count - shift**2
        self.mean_value = (origin + shift).tolist()
        self.std_value = np.sqrt(np.atleast_2d(variance).reshape(-1, variance.shape[-1]).mean(0)).tolist()
        return self

    def apply(self, images, low, high):
        """Standardizes float images whose range is `[low, high]`."""
        if self.mean_value is None:
            raise ValueError("`Standardize` must be fitted first: `.fit(dataset)`. Received: mean_value=None")
        mean = np.asarray(self.mean_value, "float32")
        if tuple(images.shape[-mean.ndim :]) != mean.shape and None not in images.shape[-mean.ndim :]:
            raise ValueError(
                f"`Standardize` was fitted to images of shape {mean.shape}. Received: shape={tuple(images.shape)}"
            )
        # A constant channel is only centred.
        std = np.asarray(self.std_value, "float32") if self.scale else np.float32(1)
        std = np.where(std > 0, std, np.float32(1))
        return ((images - low) / (high - low) - mean) / std if (low, high) != (0.0, 1.0) else (images - mean) / std


def image_batches(dataset):
    """Yields NumPy batches of images in [0, 1] units from arrays or any iterable of images, batches or examples."""
    if hasattr(dataset, "shape"):
        dataset = np.array_split(np.asarray(dataset), max(1, len(dataset) // 256))
    empty = True
    for element in dataset:
        if isinstance(element, dict):
            element = element["image"]
        elif isinstance(element, (tuple, list)):
            element = element[0]
        images = np.asarray(element)
        images = images if images.ndim == 4 else images[None]
        if images.ndim != 4:
            raise ValueError(f"`dataset` must hold images (h, w, c) or batches. Received: shape={images.shape[1:]}")
        empty = False
        yield images * (1 / 255) if images.dtype == np.uint8 else images
    if empty:
        raise ValueError("`dataset` must hold at least one image. Received: dataset=0 images")
