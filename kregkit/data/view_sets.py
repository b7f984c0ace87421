"""Named sets of test-time views, and their products."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from kregkit._core.checks import check_list, check_number
from kregkit._core.types import Tensor
from kregkit.data._arguments import register
from kregkit.data.views import MultiScale, RandomViews, Views, check_images


@register
class D4(Views):
    """All eight ways to turn by quarters and mirror: for images without an up, such as cells, tissue and aerial ones.

    The symmetries of the square, the dihedral group of order 8: as it is, mirrored left to right, top to bottom, both;
    then the same four of the transposed image. Of images that aren't square the last four have the sides swapped.

    Example:

    >>> import numpy as np
    >>> from kregkit.data import D4
    >>> np.array(D4()(np.arange(4.0).reshape(1, 2, 2, 1)))[:, 0, :, :, 0].reshape(8, 4).astype(int).tolist()[:5]
    [[0, 1, 2, 3], [1, 0, 3, 2], [2, 3, 0, 1], [3, 2, 1, 0], [0, 2, 1, 3]]

    Reference: [Cohen and Welling, 2016](https://arxiv.org/abs/1602.07576)
    """

    num_views = 8

    def each(self, images: Tensor) -> Any:
        check_images(images)
        views = []
        for image in (images, ops.transpose(images, (0, 2, 1, 3))):
            two = [image, ops.flip(image, axis=2)]
            views += two + [ops.flip(view, axis=1) for view in two]
        return views

    def matrices(self, height: Tensor, width: Tensor) -> Any:
        mirrors = [np.diag([x, y, 1]) for x, y in [(1, 1), (-1, 1), (1, -1), (-1, -1)]]
        transposed = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1]])
        return np.array([*mirrors, *(transposed @ mirror for mirror in mirrors)], "float32")


@register
class Scales(MultiScale):
    """The images at several sizes relative to their own, for a model that accepts any size.

    Args:
        factors: Sequence of floats > 0. Defaults to `(0.75, 1, 1.25)`.
        crops: As in `MultiScale`: views such as `TenCrop(224)`, cut from each size, or `None` (the default).

    Example:

    >>> import numpy as np
    >>> from kregkit.data import Scales
    >>> [tuple(view.shape) for view in Scales((0.5, 1)).each(np.zeros((2, 8, 12, 1), "float32"))]
    [(2, 4, 6, 1), (2, 8, 12, 1)]
    """

    def __init__(self, factors: Sequence[float] = (0.75, 1, 1.25), crops: Views | None = None) -> None:
        check_list("factors", factors, lambda name, value: check_number(name, value, 0, low_open=True))
        super().__init__([1] * len(factors), crops)
        self.sizes = self.factors = [float(factor) for factor in factors]

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        crops = config["crops"]
        return cls(
            config["factors"], keras.saving.deserialize_keras_object(crops) if isinstance(crops, dict) else crops
        )

    def _shapes(self, height, width):
        return [(max(round(height * factor), 1), max(round(width * factor), 1)) for factor in self.factors]


@register
class ViewProduct(Views):
    """Views of views: every one of the first, and of each every one of the second, and so on.

    `marginalize(model, views=[D4(), Scales()])` makes one of the list.

    Args:
        views: List of `Views`, none of them random.

    Example:

    >>> from kregkit.data import D4, Scales, ViewProduct
    >>> ViewProduct([D4(), Scales()]).num_views
    24
    """

    def __init__(self, views: list[Views]) -> None:
        views = [
            keras.saving.deserialize_keras_object(each) if isinstance(each, dict) else each
            for each in check_list("views", views)
        ]
        if not all(isinstance(each, Views) and not isinstance(each, RandomViews) for each in views):
            raise ValueError(
                "A product is of kregkit.data.Views that aren't random, such as [D4(), Scales()]. "
                f"Received: views={views!r}"
            )
        self.views = views
        self.num_views = math.prod(int(each.num_views or 0) for each in views)

    def get_config(self) -> dict[str, Any]:
        return {"views": [keras.saving.serialize_keras_object(each) for each in self.views]}

    def each(self, images: Tensor) -> Any:
        made = [images]
        for views in self.views:
            made = [view for one in made for view in views.each(one)]
        return made

    def matrices(self, height: Tensor, width: Tensor) -> Any:
        found = [(np.eye(3), (height, width))]
        for views in self.views:
            after = []
            for matrix, size in found:
                own = views.matrices(*size)
                if own is None:
                    return None
                shapes = [tuple(view.shape[1:3]) for view in views.each(keras.KerasTensor((1, *size, 1)))]
                # From the view to what it is a view of, and from there to the image.
                after += [(matrix @ one, shape) for one, shape in zip(own, shapes)]
            found = after
        return np.array([matrix for matrix, _ in found], "float32")
