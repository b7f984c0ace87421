"""Operations that mix two examples, images and labels."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from kregkit._core.checks import check_choice, check_integer, check_number
from kregkit._core.types import Tensor
from kregkit.data._arguments import register
from kregkit.data._graph_checks import require, text
from kregkit.data._warp import sizes
from kregkit.data.augment import Operation
from kregkit.data.erasing import box_mask, box_window


@functools.lru_cache(maxsize=16)
def _beta_quantiles(alpha, num=4096):
    from scipy.stats import beta

    return beta.ppf(np.linspace(0, 1, num + 1), alpha, alpha).astype("float32")


def beta_draw(u: Tensor, alpha: float) -> Any:
    """Turns uniform numbers into `Beta(alpha, alpha)` ones, by its quantiles, linear between 4,097 of them."""
    quantiles = tf.constant(_beta_quantiles(alpha))
    position = u * (len(_beta_quantiles(alpha)) - 1)
    below = tf.cast(tf.floor(position), tf.int32)
    first = tf.gather(quantiles, below)
    return first + (position - tf.floor(position)) * (tf.gather(quantiles, below + 1) - first)


class Mixing(Operation):
    """An operation on examples and their partners. `u` are the draws of the example that is changed."""

    mixes = True

    def __init__(self, alpha: float, num_classes: int | None, probability: float, partners: str) -> None:
        self.alpha = check_number("alpha", alpha, 0, low_open=True)
        self.num_classes = None if num_classes is None else check_integer("num_classes", num_classes, 2, 10**8)
        self.probability = check_number("probability", probability, 0, 1)
        self.partners = check_choice("partners", partners, ("epoch", "batch"))

    def check_labels(self, labels: Tensor, name: Callable[[Any], Any]) -> Any:
        """Raises an error if these labels can't be mixed.

        Args:
            labels: Tensor `(num, ...)`.
            name: Callable from a row to a string, what an error calls this example.
        """
        operation, shape = type(self).__name__, tuple(labels.shape)
        is_class = labels.shape.rank == 1 or (labels.shape.rank == 2 and labels.shape[-1] == 1)
        if labels.dtype.is_floating:
            if self.num_classes is not None and shape[1:] != (self.num_classes,):
                raise ValueError(
                    f"`{operation}` with `num_classes` needs integer class numbers, or rows of {self.num_classes} "
                    "floats: cast class numbers to int32, or leave `num_classes` out to mix the labels as they are. "
                    f"Received: labels of type {labels.dtype.name} and shape={shape}"
                )
            _require_each(
                labels,
                tf.math.is_finite(labels),
                lambda row: text(name(row), f" has a label that is NaN or infinite, which `{operation}` would mix."),
            )
            return
        if not (labels.dtype.is_integer or labels.dtype == tf.bool):
            raise ValueError(
                f"`{operation}` mixes numbers: turn the labels into class numbers first, such as with "
                f"keras.layers.StringLookup. Received: labels of type {labels.dtype.name}"
            )
        if self.num_classes is None:
            raise ValueError(
                f"`{operation}` mixes labels, so integer labels need `num_classes`, to be one-hot encoded. "
                f"Received: num_classes=None, labels of type {labels.dtype.name}"
            )
        if not is_class and shape[1:] != (self.num_classes,):
            raise ValueError(
                f"Labels must be `(batch,)` or one-hot, `(batch, {self.num_classes})`. Received: shape={shape}"
            )
        numbers = tf.cast(labels, tf.int64)
        end = self.num_classes if is_class else 2
        expected = f"0 to {end - 1}, as num_classes={end} says" if is_class else "0 or 1 in a one-hot row"
        _require_each(
            numbers,
            (numbers >= 0) & (numbers < end),
            lambda row: text(
                name(row), f" has a label that `{operation}` cannot mix: it must be {expected}. Received: from ",
                tf.reduce_min(numbers[row]), " to ", tf.reduce_max(numbers[row]),
            ),
        )  # fmt: skip

    def one_hot(self, labels: Tensor) -> Any:
        """Returns labels that can be mixed: floats as they are, integers and Booleans one-hot."""
        if labels.dtype.is_floating:
            return labels
        numbers = tf.cast(labels, tf.int64)
        if numbers.shape.rank == 2 and numbers.shape[-1] == self.num_classes:
            return tf.cast(numbers, tf.float32)
        return tf.one_hot(numbers[:, 0] if numbers.shape.rank == 2 else numbers, self.num_classes)

    def mix(self, images: Tensor, labels: Tensor, other_images: Tensor, other_labels: Tensor, u: Tensor) -> Any:
        """Returns mixed images and labels."""
        raise NotImplementedError

    def mix_annotations(self, annotations: Any, others: Tensor, u: Tensor, size: Any) -> Any:
        """Returns boxes and points of both, as far as they can still be seen in the mixed image.

        Args:
            annotations, others: `Annotations` of the examples and of their partners.
            u: The draws.
            size: Pair (height, width) of the images.
        """
        raise NotImplementedError

    def _blend(self, values, others, weight):
        weight = tf.reshape(tf.cast(weight, values.dtype), (-1, *[1] * (values.shape.rank - 1)))
        return others + weight * (values - others)


def _require_each(labels, good, describe):
    """Requires that all of `good` is true; `describe` gets the first row where it isn't."""
    rows = tf.reduce_all(tf.reshape(good, (tf.shape(labels)[0], -1)), -1)
    require(tf.reduce_all(rows), lambda: describe(tf.argmin(tf.cast(rows, tf.int32))))


_ARGUMENTS = """
    Args:
        alpha: Float > 0. Defaults to `{alpha}`.
        num_classes: Integer >= 2, to one-hot encode integer and Boolean labels, at test time too. Float labels are
            mixed as they are; with `num_classes` they must be rows of that length.
        probability: Float in [0, 1], of mixing an example at all. Defaults to `1.0`.
        partners: `"epoch"` (the default) or `"batch"`. In `pipeline`, on a source with random access, an `"epoch"`
            partner is any example of the source, as it looks in this epoch: the result doesn't depend on how the epoch
            is cut into batches or shards, for twice the work of the operations before. `"batch"` takes the partner
            from the same batch, as most do, for free. Elsewhere both mean `"batch"`.
"""


@register
class MixUp(Mixing):
    """Blends each example with another: `x' = r x + (1 - r) x~`, `y' = r y + (1 - r) y~`, `r ~ Beta(alpha, alpha)`.

    Partners and `r` are drawn by key, for each image. Sample weights stay with the example. Boxes and points are those
    of both, but for an image too faint for one of 255 levels.
    {arguments}
    Example:

    >>> import numpy as np
    >>> from kregkit.data import Augment, MixUp
    >>> images = np.zeros((4, 8, 8, 3), "uint8")
    >>> x, y = Augment([MixUp(num_classes=10)])(images, key=0, labels=np.arange(4))
    >>> tuple(y.shape), y.numpy().sum(1).round(5).tolist()
    ((4, 10), [1.0, 1.0, 1.0, 1.0])

    Reference: [Zhang et al., 2018](https://arxiv.org/abs/1710.09412)
    """

    num_draws = 2

    def __init__(
        self, alpha: float = 0.2, num_classes: int | None = None, probability: float = 1.0, partners: str = "epoch"
    ) -> None:
        super().__init__(alpha, num_classes, probability, partners)

    def _weight(self, u):
        return tf.where(u[:, 0] < self.probability, beta_draw(u[:, 1], self.alpha), 1.0)

    def mix_annotations(self, annotations: Any, others: Tensor, u: Tensor, size: Any) -> Any:
        weight = self._weight(u)
        # What is less than one of 255 levels isn't there.
        own, other = (tf.cast(each > 1 / 255, tf.float32) for each in (weight, 1 - weight))
        return annotations.scaled(own).joined(others.scaled(other))

    def mix(self, images: Tensor, labels: Tensor, other_images: Tensor, other_labels: Tensor, u: Tensor) -> Any:
        weight = self._weight(u)
        return self._blend(images, other_images, weight), self._blend(labels, other_labels, weight)


@register
class CutMix(Mixing):
    """Pastes a box of another example: `x'` is `x~` inside the box and `x` outside; labels mix by area.

    The box has sides `h sqrt(1 - r)` and `w sqrt(1 - r)`, `r ~ Beta(alpha, alpha)`, rounded to pixels, around a
    uniformly drawn pixel, cut off at the border. `y' = a y + (1 - a) y~`, with `a` the share of pixels that stayed.
    Boxes and points are those of both that are still seen: the image's outside the pasted box, the partner's inside.
    {arguments}
    Example:

    >>> import numpy as np
    >>> from kregkit.data import Augment, CutMix
    >>> images = np.zeros((4, 8, 8, 3), "uint8")
    >>> x, y = Augment([CutMix(num_classes=10)])(images, key=0, labels=np.arange(4))
    >>> tuple(y.shape), y.numpy().sum(1).round(5).tolist()
    ((4, 10), [1.0, 1.0, 1.0, 1.0])

    Reference: [Yun et al., 2019](https://arxiv.org/abs/1905.04899)
    """

    num_draws = 4

    def __init__(
        self, alpha: float = 1.0, num_classes: int | None = None, probability: float = 1.0, partners: str = "epoch"
    ) -> None:
        super().__init__(alpha, num_classes, probability, partners)

    def _sides(self, u: Tensor, size: Any) -> tuple[Tensor, Tensor]:
        """Returns the box's height and width, whole pixels `(batch,)`."""
        side = tf.sqrt(1 - tf.where(u[:, 0] < self.probability, beta_draw(u[:, 1], self.alpha), 1.0))
        height, width = (tf.cast(tf.round(side * tf.cast(pixels, tf.float32)), tf.int32) for pixels in size)
        return height, width

    def mix_annotations(self, annotations: Any, others: Tensor, u: Tensor, size: Any) -> Any:
        window = box_window(u[:, 2:], *self._sides(u, size), size)
        return annotations.outside(window).joined(others.inside(window))

    def mix(self, images: Tensor, labels: Tensor, other_images: Tensor, other_labels: Tensor, u: Tensor) -> Any:
        size = sizes(images)
        box = box_mask(u[:, 2:], *self._sides(u, size), size)
        kept = 1 - tf.reduce_mean(tf.cast(box, tf.float32), (1, 2))
        return tf.where(box[..., None], other_images, images), self._blend(labels, other_labels, kept)


for _class, _alpha in ((MixUp, 0.2), (CutMix, 1.0)):
    # `python -OO` drops docstrings.
    if _class.__doc__:
        _class.__doc__ = _class.__doc__.replace("{arguments}", _ARGUMENTS.strip("\n").format(alpha=_alpha))
