"""What changes tones: levels 0..255 cut, turned round, spread and sharpened, each image by numbers of its own.

Levels are what an image's values are in 0..255: uint8 as it is, floats scaled there and not rounded. Where few images
of a batch are changed by something costly, only these are computed: `only_where`.
"""

import tensorflow as tf

from kregkit._core import keras_internals
from kregkit.data import _warp
from kregkit.data.color import LUMA

# Floats that stand for whole levels can lie a rounding below them.
_ROUNDING = 1e-3


def levels(images, value_range):
    """Returns uint8 images as they are, and float images as levels 0..255."""
    if images.dtype == tf.uint8:
        return images
    low, high = value_range
    return (tf.cast(images, tf.float32) - low) * (255 / (high - low))


def only_where(chosen, images, function, *arguments):
    """Applies `function` to the images for which `chosen` is true, and computes nothing for the others.

    Args:
        chosen: Booleans `(batch,)`.
        images: Tensor `(batch, ...)`.
        function: Callable from some of the images and their arguments to tensors of the same shape and type.
        *arguments: Tensors `(batch, ...)`.
    """
    if keras_internals.compiled_by_xla(tf.compat.v1.get_default_graph()):
        # There a number of images that only the data tell has no shape.
        return tf.where(tf.reshape(chosen, (-1, *[1] * (images.shape.rank - 1))), function(images, *arguments), images)
    rows = tf.where(chosen)

    def some():
        few = [tf.gather(each, rows[:, 0]) for each in (images, *arguments)]
        return tf.tensor_scatter_nd_update(images, rows, function(*few))

    return tf.cond(tf.size(rows) > 0, some, lambda: images)


def measured_where(chosen, images, function, default):
    """Returns `function` of the images for which `chosen` is true, and `default` for the others.

    Args:
        chosen: Booleans `(batch,)`.
        images: Tensor `(batch, ...)`.
        function: Callable from some of the images to float32 `(num, numbers)`.
        default: Sequence of that many numbers.
    """
    numbers = tf.tile(tf.constant(default, tf.float32)[None], (tf.shape(images)[0], 1))
    if keras_internals.compiled_by_xla(tf.compat.v1.get_default_graph()):
        return tf.where(chosen[:, None], function(images), numbers)
    rows = tf.where(chosen)

    def some():
        return tf.tensor_scatter_nd_update(numbers, rows, function(tf.gather(images, rows[:, 0])))

    return tf.cond(tf.size(rows) > 0, some, lambda: numbers)


def extremes(images):
    """Returns the lowest levels and the highest ones of each channel, `(batch, 2 channels)`."""
    height, width = _warp.sizes(images)
    channels = images.shape[-1]
    rows = tf.reshape(images, (-1, height, width * channels))
    # Whole rows first, which is vectorised.
    low, high = tf.reduce_min(rows, 1), tf.reduce_max(rows, 1)
    low = tf.reduce_min(tf.reshape(low, (-1, width, channels)), 1)
    high = tf.reduce_max(tf.reshape(high, (-1, width, channels)), 1)
    return tf.cast(tf.concat([low, high], -1), tf.float32)


def mean_level(images):
    """Returns the mean of each image's brightness, as the eye weighs it, `(batch, 1)`, in levels."""
    height, width = _warp.sizes(images)
    channels = images.shape[-1]
    # Whole rows first, which is vectorised; whole numbers of up to 24 bits are exact.
    rows = tf.reduce_sum(tf.cast(tf.reshape(images, (-1, height, width * channels)), tf.float32), 1)
    mean = tf.reduce_sum(tf.reshape(rows, (-1, width, channels)), 1) / tf.cast(height * width, tf.float32)
    return tf.reduce_sum(mean * LUMA, -1, keepdims=True) if channels == 3 else tf.reduce_mean(mean, -1, keepdims=True)


def stretch(extreme):
    """Returns factors and offsets `(batch, channels)` that bring each channel's extremes to 0 and 255."""
    low, high = tf.split(extreme, 2, axis=-1)
    # A channel of one level stays.
    flat = high <= low
    factor = tf.where(flat, 1.0, 255 / tf.where(flat, 1.0, high - low))
    return factor, tf.where(flat, 0.0, -low * factor)


def solarize(values, threshold):
    """Turns round float levels from `threshold` on: `255 - v`. `threshold` is broadcast; 256 leaves all."""
    return tf.where(values >= threshold - _ROUNDING, 255 - values, values)


def posterize(values, step):
    """Cuts float levels down to multiples of `step`, which is broadcast; 0 leaves them."""
    cut = tf.floor((values + _ROUNDING) / tf.maximum(step, 1.0)) * step
    return tf.where(step > 0, cut, values)


def equalize(images):
    """Spreads each channel's levels so that all are about as frequent, as PIL's `ImageOps.equalize` does.

    Returns levels of the images' type, whole ones.
    """
    height, width = _warp.sizes(images)
    channels = images.shape[-1]
    whole = images if images.dtype == tf.uint8 else tf.clip_by_value(tf.round(images), 0, 255)
    whole = tf.cast(whole, tf.int32)
    flat = tf.reshape(tf.transpose(whole, (0, 3, 1, 2)), (-1, height * width))
    counts = _histograms(flat)
    numbers = tf.range(256)
    last = tf.reduce_max(tf.where(counts > 0, numbers, 0), -1, keepdims=True)
    step = (height * width - tf.gather(counts, last, batch_dims=1)) // 255
    below = tf.cumsum(counts, axis=-1, exclusive=True)
    table = tf.minimum((step // 2 + below) // tf.maximum(step, 1), 255)
    # Too few pixels, or one level: as it is.
    table = tf.where(step > 0, table, numbers)
    start = 256 * tf.reshape(tf.range(tf.shape(whole)[0] * channels), (-1, 1, 1, channels))
    return tf.cast(tf.gather(tf.reshape(table, (-1,)), whole + start), images.dtype)


def _histograms(rows):
    """Returns how often each of 0..255 is in each row of integers."""
    if not keras_internals.compiled_by_xla(tf.compat.v1.get_default_graph()):
        return tf.reshape(tf.math.bincount(rows, minlength=256, maxlength=256, axis=-1), (-1, 256))
    # XLA counts in one row only.
    num = tf.shape(rows)[0]
    rows = rows + 256 * tf.range(num)[:, None]
    return tf.reshape(tf.math.unsorted_segment_sum(tf.ones_like(rows), rows, 256 * num), (-1, 256))


def sharpen(values, factor):
    """Blends float levels with smoothed ones: `s + factor (v - s)`, clipped, as PIL's `ImageEnhance.Sharpness` does.

    Args:
        values: `(batch, h, w, channels)`.
        factor: `(batch,)`: 0 is smooth, 1 as it was, more is sharper.
    """
    height, width = _warp.sizes(values)
    padded = tf.pad(values, [[0, 0], [1, 1], [1, 1], [0, 0]])
    rows = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    smooth = (rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] + 4 * values) / 13
    i, j = tf.range(height)[:, None, None], tf.range(width)[None, :, None]
    # The outermost pixels have no neighbours on one side and stay.
    inner = (i > 0) & (i < height - 1) & (j > 0) & (j < width - 1)
    weight = tf.where(inner, 1 - factor[:, None, None, None], 0.0)
    return tf.clip_by_value(values + weight * (smooth - values), 0.0, 255.0)
