"""Views that are cut out of the image: five or ten crops."""

from collections.abc import Sequence
from typing import Any

from keras import ops

from kregkit._core.types import Tensor
from kregkit.data._arguments import check_size, register
from kregkit.data.views import Views, known_size


def _window(images, size, top, left):
    height, width = size
    return images[:, top : top + height, left : left + width]


def _check_fits(images, size):
    height, width = known_size(images)
    if height < size[0] or width < size[1]:
        raise ValueError(f"`size` must be at most the images' {height}x{width}. Received: size={size}")
    return height, width


@register
class FiveCrop(Views):
    """The four corners and the centre, cut to `size`: upper left, upper right, lower left, lower right, centre.

    Args:
        size: Integer or pair `(height, width)`.

    Raises:
        ValueError: if an image is smaller than `size`.

    Example:

    >>> import numpy as np
    >>> from kregkit.data import FiveCrop
    >>> tuple(FiveCrop(6)(np.zeros((2, 8, 8, 1), "float32")).shape)
    (5, 2, 6, 6, 1)
    """

    num_views = 5

    def __init__(self, size: int | Sequence[int]) -> None:
        self.size = check_size(size)

    def each(self, images: Tensor) -> Any:
        height, width = _check_fits(images, self.size)
        down, right = height - self.size[0], width - self.size[1]
        corners = [(0, 0), (0, right), (down, 0), (down, right), (down // 2, right // 2)]
        return [_window(images, self.size, *corner) for corner in corners]


@register
class TenCrop(FiveCrop):
    """`FiveCrop`, and then the same five mirrored left to right: AlexNet's ten views.

    Args:
        size: As in `FiveCrop`.

    Example:

    >>> import numpy as np
    >>> from kregkit.data import TenCrop
    >>> tuple(TenCrop(6)(np.zeros((2, 8, 8, 1), "float32")).shape)
    (10, 2, 6, 6, 1)

    Reference: [Krizhevsky, Sutskever and Hinton, 2012](https://papers.nips.cc/paper/4824), section 4.1
    """

    num_views = 10

    def each(self, images: Tensor) -> Any:
        five = super().each(images)
        return five + [ops.flip(view, axis=2) for view in five]
