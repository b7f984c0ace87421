"""Predictions for views of images, mapped back to the images' own pixels."""

from typing import Any

import tensorflow as tf

from kregkit._core import rules
from kregkit.data import _warp


@rules.checked(
    predictions=rules.tensor(4),
    matrices=rules.tensor(2, 3),
    size=rules.pair(rules.whole(1), none=True),
    spacing=rules.pair(rules.number(0, low_open=True)),
    exact=rules.boolean,
)
def restore(
    predictions: Any,
    matrices: Any,
    size: tuple[int, int] | None = None,
    spacing: tuple[float, float] = (1.0, 1.0),
    exact: bool = False,
) -> Any:
    """Maps predictions of one number or distribution per pixel from views back to the images.

    The prediction at a position `p` of an image is the view's at `M^-1 p`, where `M` maps positions in the view to
    positions in the image: bilinear between the view's predictions, and a copy where `M^-1 p` is one of their
    positions. Coordinates are in pixels from the centre, x to the right and y down.

    Args:
        predictions: `(num, h, w, channels)`: one row for each view of each image.
        matrices: `(num, 3, 3)` or `(3, 3)`, as `Views.matrices` and `Augment.matrices` give them.
        size: Pair `(height, width)` of the result. Defaults to that of `predictions`.
        spacing: Pair of numbers, rows and columns: how many of the image's pixels lie between two neighbouring
            predictions, such as 8 for a network of stride 8. Defaults to `(1.0, 1.0)`.
        exact: Boolean, whether the matrices only mirror and shift by a multiple of `spacing`, which takes a copy.
            Defaults to `False`.

    Returns:
        `(result, seen)`: the predictions `(num, height, width, channels)`, and Booleans `(num, height, width)`, whether
        the view shows this position. Where it doesn't, the result is that of the nearest one.

    Example:

    >>> import numpy as np
    >>> from kregkit.data import Flips, restore
    >>> images = np.arange(6.0).reshape(1, 1, 6, 1)
    >>> mirrored = Flips()(images)[1]
    >>> result, seen = restore(mirrored, Flips().matrices(1, 6)[1])
    >>> result.numpy().ravel().tolist(), bool(seen.numpy().all())
    ([0.0, 1.0, 2.0, 3.0, 4.0, 5.0], True)
    """
    predictions = tf.convert_to_tensor(predictions)
    if not exact and not predictions.dtype.is_floating:
        predictions = tf.cast(predictions, "float32")
    view_size = _warp.sizes(predictions)
    matrices = tf.broadcast_to(tf.cast(matrices, "float32"), [tf.shape(predictions)[0], 3, 3])
    x, y = _warp.coordinates([("affine", _inverse(matrices, *spacing))], *(view_size if size is None else size))
    # From the centre to the corner.
    top, right = ((tf.cast(one, "float32") - 1) for one in view_size)
    y, x = y + top / 2, x + right / 2
    seen = _inside(y, top) & _inside(x, right)
    y, x = tf.clip_by_value(y, 0.0, top), tf.clip_by_value(x, 0.0, right)

    def at(row, column):
        position = tf.stack([tf.minimum(row, top), tf.minimum(column, right)], -1)
        return tf.gather_nd(predictions, tf.cast(position, "int32"), batch_dims=1)

    if exact:
        return at(tf.round(y), tf.round(x)), seen
    above, left = tf.floor(y), tf.floor(x)
    down, across = (tf.cast(part, predictions.dtype)[..., None] for part in (y - above, x - left))
    upper, lower = (_between(at(row, left), at(row, left + 1), across) for row in (above, above + 1))
    return _between(upper, lower, down), seen


def _between(first, second, weight):
    # Infinite logits times 0 would be NaN.
    return tf.where(weight == 0, first, (1 - weight) * first + weight * second)


def _inside(position, last):
    # Half a pixel beyond the outermost centres, and a little for rounding.
    return (position >= -0.501) & (position <= last + 0.501)


def _inverse(matrices, rows, columns):
    """Returns the inverse of affine matrices, in units of `rows` and `columns`; exact where they mirror and shift."""
    a, b, tx = matrices[:, 0, 0], matrices[:, 0, 1], matrices[:, 0, 2]
    c, d, ty = matrices[:, 1, 0], matrices[:, 1, 1], matrices[:, 1, 2]
    determinant = a * d - b * c
    a, b, c, d = d / determinant, -b / determinant, -c / determinant, a / determinant
    x, y = -(a * tx + b * ty), -(c * tx + d * ty)
    return _warp.affine(a, b * (rows / columns), x / columns, c * (columns / rows), d, y / rows)
