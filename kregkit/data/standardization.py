"""Centres and scales images by what was measured on the training set."""

from typing import Any

import numpy as np

from kregkit._core.checks import check_array, check_choice, shown
from kregkit._core.types import Tensor
from kregkit.data._arguments import register
from kregkit.data.augment import Operation


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
    keeps_range = False

    def __init__(
        self, mean: Tensor = "channel", scale: Any = True, mean_value: Any = None, std_value: Any = None
    ) -> None:
        self.mean = check_choice("mean", mean, ("channel", "image"))
        self.scale = check_choice("scale", scale, (True, False))
        check_array("mean_value", mean_value, none=True)
        self.mean_value = mean_value
        std = check_array("std_value", std_value, none=True)
        if std is not None and (std < 0).any():
            raise ValueError(f"`std_value` must not be negative. Received: std_value={shown(std_value)}")
        self.std_value = std_value

    def fit(self, dataset: Any) -> Any:
        """Measures a training set in float64, one batch in memory at a time, and returns `self`.

        Args:
            dataset: As for `PCAColorNoise.fit`, with any number of channels. With `mean="image"` all images must
                have the same size.
        """
        total: Any = 0.0
        square: Any = 0.0
        origin: Any = None
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
            origin = pixels.mean(0) if not count else origin
            pixels = pixels - origin
            total, square, count = total + pixels.sum(0), square + (pixels**2).sum(0), count + len(pixels)
        shift = total / count
        variance = square / count - shift**2
        self.mean_value = (origin + shift).tolist()
        self.std_value = np.sqrt(np.atleast_2d(variance).reshape(-1, variance.shape[-1]).mean(0)).tolist()
        return self

    def apply(self, images: Tensor, u: Tensor, value_range: tuple[float, float]) -> Any:
        low, high = value_range
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


def image_batches(dataset: Any) -> Any:
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
        if images.dtype == np.uint8:
            yield images * (1 / 255)
            continue
        # As for a pipeline's float images, a tenth beyond is let through; NaN isn't.
        inside = np.issubdtype(images.dtype, np.floating) and images.min() >= -0.1 and images.max() <= 1.1
        if not inside and images.size:
            raise ValueError(
                "`dataset` must hold uint8 images or floats in [0, 1]: scale them first. "
                f"Received: dtype={images.dtype.name}, values from {images.min()} to {images.max()}"
            )
        yield images
    if empty:
        raise ValueError("`dataset` must hold at least one image. Received: dataset=0 images")
