"""How an element holds boxes and points, which move along with their image."""

from typing import Any

from kregkit._core import rules
from kregkit._core.checks import check_choice, check_integer, check_number
from kregkit.data._arguments import Configured, register

_PIXELS = ("xyxy", "yxyx", "xywh", "center_xywh", "center_yxhw")
BOX_FORMATS = (*_PIXELS, *(f"rel_{name}" for name in _PIXELS))
POINT_FORMATS = ("xy", "yx", "rel_xy", "rel_yx")


@register
class Boxes(Configured):
    """Says where an element's boxes are, what their four numbers mean, and which of them are dropped.

    Positions are measured from the image's upper left corner, where its first pixel begins; a box around the pixel of
    row `i` and column `j` is `(j, i, j + 1, i + 1)`. A moved box is the smallest one around what is still seen of the
    old one: of what a rotation or a lens made of it, inside the image. It is float32.

    A box of which less than `min_visible` of its area is left is dropped: its four numbers become -1, and so do its
    labels, as Keras marks boxes that aren't there. Boxes that come so, or without area, stay so. (Strings become empty,
    Booleans false.) Elements with different numbers of boxes are filled up in the same way to the most of the batch.

    Args:
        key: Where they are: a key of the dictionary, a path such as `"objects/bbox"`, or an integer for an entry of a
            tuple. Needed in `pipeline`.
        labels: Key, or list of keys, of what has one row for each box: classes, scores. Defaults to none.
        format: `"xyxy"` (the default: left, top, right, bottom, in pixels), `"yxyx"`, `"xywh"`, `"center_xywh"` or
            `"center_yxhw"`, or one of these with `"rel_"` before it, as a share of the image's size. TFDS's boxes are
            `"rel_yxyx"`.
        min_visible: Float in [0, 1], the share of the area. Defaults to `0.1`; 0 drops only what isn't seen at all.
        max_boxes: Integer >= 1: elements come with so many rows, the boxes that are there first; more are left out.
            Defaults to `None`: as many as come, and for `MixUp` and `CutMix` those of both images.

    Example:

    >>> import numpy as np
    >>> from kregkit.data import Augment, RandomFlip
    >>> augment = Augment([RandomFlip(probability=1.0)])
    >>> images, boxes = augment(np.zeros((1, 8, 10, 3), "uint8"), key=0, boxes=[[[1.0, 2.0, 4.0, 6.0]]])
    >>> boxes.numpy().ravel().tolist()
    [6.0, 2.0, 9.0, 6.0]
    """

    def __init__(
        self,
        key: str | int | None = None,
        labels: str | int | list | None = None,
        format: str = "xyxy",
        min_visible: float = 0.1,
        max_boxes: int | None = None,
    ) -> None:
        rules.key("key", key)
        self.key = key
        rules.any_of(rules.key, rules.entries(rules.key, empty=True))("labels", labels)
        self.labels = labels
        self.format = check_choice("format", format, BOX_FORMATS)
        self.min_visible = check_number("min_visible", min_visible, 0, 1)
        self.max_boxes = None if max_boxes is None else check_integer("max_boxes", max_boxes, 1)


@register
class Points(Configured):
    """Says where an element's points are, such as the joints of a body, and what their numbers mean.

    An element holds `(num, 2)` or `(num, 3)` numbers, or `(instances, num, 2 or 3)`. The third one says whether the
    point is there, as in COCO: 0 for one that isn't. Points that leave the image, or come from outside of it, become
    -1, and their third number 0. Positions are measured as for `Boxes`: the middle of the first pixel is `(0.5, 0.5)`.
    A flip leaves the order as it is: a left eye is still at the left eye's place in the list.

    Args:
        key: As for `Boxes`.
        format: `"xy"` (the default) or `"yx"` in pixels, `"rel_xy"` or `"rel_yx"` as a share of the image's size.

    Example:

    >>> import numpy as np
    >>> from kregkit.data import Augment, RandomFlip
    >>> augment = Augment([RandomFlip(probability=1.0)])
    >>> images, points = augment(np.zeros((1, 8, 10, 3), "uint8"), key=0, points=[[[1.5, 2.5]]])
    >>> points.numpy().ravel().tolist()
    [8.5, 2.5]
    """

    def __init__(self, key: str | int | None = None, format: str = "xy") -> None:
        rules.key("key", key)
        self.key = key
        self.format = check_choice("format", format, POINT_FORMATS)


def described(argument: Any, value: Any, kind: Any) -> Any:
    """Returns the `Boxes` or `Points` that an argument of `pipeline` says: itself, or from a key."""
    if value is None:
        return None
    if isinstance(value, (str, int)) and not isinstance(value, bool):
        rules.key(argument, value)
        value = kind(value)
    if not isinstance(value, kind) or value.key is None:
        name = kind.__name__
        raise ValueError(
            f"`{argument}` must be a key of the examples, or say one, such as data.{name}('{argument}', "
            f"format={'rel_yxyx' if kind is Boxes else 'rel_xy'!r}). Received: {argument}={value!r}"
        )
    return value


def label_keys(boxes: Any) -> Any:
    """Returns the list of keys of what belongs to the boxes."""
    if boxes.labels is None:
        return []
    return list(boxes.labels) if isinstance(boxes.labels, (list, tuple)) else [boxes.labels]
