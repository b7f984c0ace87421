"""Test-time views: several versions of each image, whose predictions are averaged."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from kregkit._core.checks import check_integer
from kregkit._core.types import Tensor
from kregkit.data._arguments import Configured, register


class Views(Configured):
    """Base class of all kinds of views.

    - `views.num_views`: integer.
    - `views.each(images)`: a list of `num_views` batches made from images `(batch, h, w, channels)`; they may differ
      in size.
    - `views(images)`: the same as one tensor `(num_views, batch, h', w', channels)`, where they have one size.
    - `views.matrices(height, width)`: where the views' pixels lie in the image, which maps predictions per pixel back.

    All but `RandomViews` are written in `keras.ops`, so that they work on arrays, in `ds.map` and in a model's graph
    (also on symbolic tensors), and keep the images' type. A subclass stores each argument of `__init__` under its own
    name, and is registered with Keras (`keras.saving.register_keras_serializable`) to be part of a saved model.
    """

    num_views: Any = None

    def each(self, images: Tensor) -> Any:
        raise NotImplementedError

    def matrices(self, height: Tensor, width: Tensor) -> Any:
        """Returns where each view's pixels lie in an image of this size, or `None` where views don't show all of it.

        Args:
            height, width: Integers, the image's size.

        Returns:
            float32 array `(num_views, 3, 3)`: row by row, `x' = a x + b y + t_x` and `y' = c x + d y + t_y`, in pixels
            from the centre, x to the right and y down: from a position in the view to one in the image. `None`, the
            default, says that there is no such map: then `marginalize` refuses models of one output per pixel.
        """
        return None

    def __call__(self, images: Tensor) -> Any:
        return ops.stack(self.each(images), axis=0)


def check_images(images: Tensor) -> Any:
    """Raises `ValueError` for what isn't a batch of images, whose rows and columns views would mistake."""
    if len(images.shape) != 4:
        raise ValueError(
            f"Views need images of shape (batch, height, width, channels). Received: shape={tuple(images.shape)}"
        )


def known_size(images):
    check_images(images)
    height, width = images.shape[1:3]
    if height is None or width is None:
        raise ValueError(f"Views need images of a known size. Received: shape={tuple(images.shape)}")
    return height, width


@register
class Flips(Views):
    """The images as they are, and mirrored.

    Args:
        vertical: Boolean, whether to mirror top to bottom as well, for four views. Defaults to `False`.

    Example:

    >>> import numpy as np
    >>> from kregkit.data import Flips
    >>> tuple(Flips()(np.zeros((2, 8, 8, 1), "float32")).shape)
    (2, 2, 8, 8, 1)
    """

    def __init__(self, vertical: bool = False) -> None:
        if not isinstance(vertical, bool):
            raise ValueError(f"`vertical` must be True or False. Received: vertical={vertical!r}")
        self.vertical = vertical
        self.num_views = 4 if vertical else 2

    def each(self, images: Tensor) -> Any:
        check_images(images)
        two = [images, ops.flip(images, axis=2)]
        return two + [ops.flip(view, axis=1) for view in two] if self.vertical else two

    def matrices(self, height: Tensor, width: Tensor) -> Any:
        signs = [(1, 1), (-1, 1), (1, -1), (-1, -1)][: self.num_views]
        return np.array([np.diag([x, y, 1]) for x, y in signs], "float32")


@register
class MultiScale(Views):
    """The images at several sizes, for a fully convolutional model, or cut into crops for any other.

    The short side becomes each of `sizes`, the proportions stay; bilinear, smoothed where it shrinks. Float images
    stay float; uint8 ones become float32 in their own units.

    Args:
        sizes: Sequence of integers, the short sides, such as ResNet's `(224, 256, 384, 480, 640)`.
        crops: Views such as `TenCrop(224)`, cut from each size, or `None` (the default).

    Example:

    >>> import numpy as np
    >>> from kregkit.data import MultiScale, TenCrop
    >>> images = np.zeros((2, 8, 12, 1), "float32")
    >>> [tuple(view.shape) for view in MultiScale((8, 16)).each(images)]
    [(2, 8, 12, 1), (2, 16, 24, 1)]
    >>> tuple(MultiScale((8, 16), TenCrop(8))(images).shape)
    (20, 2, 8, 8, 1)

    Reference: [He et al., 2016](https://arxiv.org/abs/1512.03385), section 3.4
    """

    def __init__(self, sizes: Sequence[int], crops: Any = None) -> None:
        if not isinstance(sizes, (list, tuple)) or not sizes:
            raise ValueError(f"`sizes` must be a sequence of integers. Received: sizes={sizes!r}")
        self.sizes = [check_integer("sizes", size, 1) for size in sizes]
        if crops is not None and not isinstance(crops, Views):
            raise ValueError(f"`crops` must be views, such as TenCrop(224), or None. Received: crops={crops!r}")
        self.crops = crops
        self.num_views = len(sizes) * (crops.num_views if crops else 1)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        crops = config["crops"]
        return cls(config["sizes"], keras.saving.deserialize_keras_object(crops) if isinstance(crops, dict) else crops)

    def _shapes(self, height, width):
        scales = [size / min(height, width) for size in self.sizes]
        return [(round(height * scale), round(width * scale)) for scale in scales]

    def matrices(self, height: Tensor, width: Tensor) -> Any:
        if self.crops is not None:
            return None
        return np.array([np.diag([width / w, height / h, 1]) for h, w in self._shapes(height, width)], "float32")

    def each(self, images: Tensor) -> Any:
        views: list[Any] = []
        for shape in self._shapes(*known_size(images)):
            floats = ops.cast(images, "float32") if "float" not in str(images.dtype) else images
            resized = ops.image.resize(
                floats, shape, interpolation="bilinear", antialias=True, data_format="channels_last"
            )
            views += self.crops.each(resized) if self.crops else [resized]
        return views

    def __call__(self, images: Tensor) -> Any:
        if len(self.sizes) > 1 and not self.crops:
            raise ValueError(
                "Views of several sizes can't be one tensor: use `each(images)`, or give `crops=`. "
                f"Received: sizes={self.sizes}"
            )
        return super().__call__(images)


@register
class RandomViews(Views):
    """Random augmentations as views: view `v` of image number `i` of the batch is drawn by the key `(seed, v, i)`.

    Args:
        augment: `kregkit.data.Augment`, without operations that mix labels.
        num_views: Integer >= 1.
        seed: Integer. Defaults to `0`.

    Example:

    >>> import numpy as np
    >>> from kregkit.data import Augment, RandomCrop, RandomFlip
    >>> views = Augment([RandomFlip(), RandomCrop(1)]).views(4, seed=0)
    >>> tuple(views(np.zeros((2, 8, 8, 1), "float32")).shape)
    (4, 2, 8, 8, 1)
    """

    def __init__(self, augment: Any, num_views: int, seed: int | None = 0) -> None:
        if isinstance(augment, dict):
            augment = keras.saving.deserialize_keras_object(augment)
        if not hasattr(augment, "transform") or augment.mixes:
            raise ValueError(f"`augment` must be an Augment that doesn't mix labels. Received: augment={augment!r}")
        self.augment = augment
        self.num_views = check_integer("num_views", num_views, 1)
        self.seed = check_integer("seed", seed)

    def each(self, images: Tensor) -> Any:
        import tensorflow as tf

        from kregkit.data._random import make_keys

        batch = tf.range(tf.shape(images, tf.int64)[0])
        return [self.augment(images, make_keys(self.seed, view, batch)) for view in range(self.num_views)]
