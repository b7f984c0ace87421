"""Operations on tones: fewer levels, inverted highlights, stretched and equalised histograms, sharpness."""

import tensorflow as tf

from kregkit._core.checks import check_integer, check_number
from kregkit.data import _tones, _warp
from kregkit.data._arguments import check_range, register
from kregkit.data.augment import Operation


class Tone(Operation):
    """An operation on levels, on each image with a probability. The first draw says whether, the others how."""

    needs_range = True

    def apply(self, images, u, value_range):
        low, high = value_range
        values = _tones.levels(images, value_range)
        chosen = u[:, 0] < self.probability
        return self.change(values, chosen, u) * ((high - low) / 255) + low

    def change(self, values, chosen, u):
        """Returns levels 0..255 from float levels and which images are chosen, `(batch,)`."""
        raise NotImplementedError


def _each(numbers):
    return numbers[:, None, None, None]


@register
class Posterize(Tone):
    """Keeps the highest bits of each level: `y = floor(x / s) s`, `s = 2^(8 - bits)`, in levels 0..255.

    Args:
        bits: Integer in [1, 8], or a pair `(low, high)` of which one is drawn for each image. Defaults to `4`.
        probability: Float in [0, 1], of changing an image. Defaults to `0.5`.

    Example:

    >>> import numpy as np
    >>> from kregkit.data import Posterize
    >>> images = np.array([0, 63, 64, 255], "uint8").reshape(1, 1, 4, 1)
    >>> (Posterize(2, probability=1.0)(images, key=0) * 255).numpy().round().ravel().tolist()
    [0.0, 0.0, 64.0, 192.0]
    """

    num_draws = 2

    def __init__(self, bits: int | tuple[int, int] = 4, probability: float = 0.5):
        pair = bits if isinstance(bits, (tuple, list)) and len(bits) == 2 else (bits, bits)
        ends = [check_integer("bits", end, 1, 8) for end in pair]
        if ends[0] > ends[1]:
            raise ValueError(f"`bits` must be a pair (low, high) in order. Received: bits={bits!r}")
        self.bits = bits
        self.probability = check_number("probability", probability, 0, 1)

    def change(self, values, chosen, u):
        low, high = self.bits if isinstance(self.bits, (tuple, list)) else (self.bits, self.bits)
        bits = tf.minimum(low + tf.floor(u[:, 1] * (high - low + 1)), float(high))
        return _tones.posterize(values, _each(tf.where(chosen, 2.0 ** (8 - bits), 0.0)))


@register
class Solarize(Tone):
    """Inverts what is bright: `y = 1 - x` where `x >= threshold`, in units of the range.

    Args:
        threshold: Float in [0, 1], or a pair `(low, high)` between which it is drawn. Defaults to `0.5`.
        probability: Float in [0, 1], of changing an image. Defaults to `0.5`.

    Example:

    >>> import numpy as np
    >>> from kregkit.data import Solarize
    >>> images = np.array([0, 100, 200, 255], "uint8").reshape(1, 1, 4, 1)
    >>> (Solarize(probability=1.0)(images, key=0) * 255).numpy().round().ravel().tolist()
    [0.0, 100.0, 55.0, 0.0]
    """

    num_draws = 2

    def __init__(self, threshold: float | tuple[float, float] = 0.5, probability: float = 0.5):
        if not isinstance(threshold, (tuple, list)):
            check_number("threshold", threshold, 0, 1)
        self.threshold = threshold
        self._ends()
        self.probability = check_number("probability", probability, 0, 1)

    def _ends(self):
        pair = self.threshold if isinstance(self.threshold, (tuple, list)) else (self.threshold, self.threshold)
        return check_range("threshold", pair, 0, 1)

    def change(self, values, chosen, u):
        low, high = self._ends()
        threshold = 255 * (low + (high - low) * u[:, 1])
        return _tones.solarize(values, _each(tf.where(chosen, threshold, 256.0)))


@register
class AutoContrast(Tone):
    """Stretches each channel of an image to the whole range: `y = (x - min) / (max - min)`.

    Args:
        probability: Float in [0, 1], of changing an image. Defaults to `0.5`.

    Example:

    >>> import numpy as np
    >>> from kregkit.data import AutoContrast
    >>> images = np.array([100, 125, 150, 110], "uint8").reshape(1, 2, 2, 1)
    >>> AutoContrast(probability=1.0)(images, key=0).numpy().astype("float64").round(3).ravel().tolist()
    [0.0, 0.5, 1.0, 0.2]
    """

    num_draws = 1

    def __init__(self, probability: float = 0.5):
        self.probability = check_number("probability", probability, 0, 1)

    def change(self, values, chosen, u):
        channels = values.shape[-1]
        extremes = _tones.measured_where(chosen, values, _tones.extremes, [0.0] * channels + [255.0] * channels)
        factor, offset = (each[:, None, None] for each in _tones.stretch(extremes))
        return tf.where(_each(chosen), tf.clip_by_value(values * factor + offset, 0.0, 255.0), values)


@register
class Equalize(Tone):
    """Spreads each channel's levels so that all of 0..255 are about as frequent, as PIL's `ImageOps.equalize` does.

    Levels are rounded to whole ones first.

    Args:
        probability: Float in [0, 1], of changing an image. Defaults to `0.5`.

    Example:

    >>> import numpy as np
    >>> from kregkit.data import Equalize
    >>> images = (np.arange(1024) // 8).astype("uint8").reshape(1, 32, 32, 1)
    >>> y = Equalize(probability=1.0)(images, key=0).numpy()
    >>> float(y.min()), float(y.max())
    (0.0, 1.0)
    """

    num_draws = 1

    def __init__(self, probability: float = 0.5):
        self.probability = check_number("probability", probability, 0, 1)

    def change(self, values, chosen, u):
        return _tones.only_where(chosen, values, _tones.equalize)


@register
class Sharpness(Tone):
    """Sharpens or blurs: `y = s + (1 + a) (x - s)`, clipped, where `s` is smoothed by 3x3 pixels, `a ~ U(amount)`.

    `s` weighs the pixel by 5 / 13 and its eight neighbours by 1 / 13, as PIL does; the outermost pixels stay.

    Args:
        amount: Float in [0, 1], or pair `(low, high)` in [-1, 10]: -1 gives `s`, 0 the image. Defaults to `0.9`.
        probability: Float in [0, 1], of changing an image. Defaults to `1.0`.

    Example:

    >>> import numpy as np
    >>> from kregkit.data import Sharpness
    >>> images = np.zeros((1, 3, 3, 1), "uint8")
    >>> images[0, 1, 1, 0] = 130
    >>> round(float(Sharpness((-1, -1))(images, key=0)[0, 1, 1, 0]) * 255)
    50
    """

    num_draws = 2

    def __init__(self, amount: float | tuple[float, float] = 0.9, probability: float = 1.0):
        check_range("amount", amount, -1, 10)
        self.amount = amount
        self.probability = check_number("probability", probability, 0, 1)

    def change(self, values, chosen, u):
        low, high = check_range("amount", self.amount, -1, 10)
        factor = tf.where(chosen, 1 + low + (high - low) * u[:, 1], 1.0)
        return _warp.compiled(_tones.sharpen, values)(values, factor)
