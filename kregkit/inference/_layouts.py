"""What an output says of an image, one prediction, one per pixel, points or boxes, and the way back from a view.

This is the `layout` of `marginalize`.
"""

import dataclasses
import math

import keras
import tensorflow as tf

from kregkit.data import restore

_POINTS = ("xy", "rel_xy")
_BOXES = ("xyxy", "rel_xyxy", "yxyx", "rel_yxyx", "xywh", "rel_xywh", "center_xywh", "rel_center_xywh")
LAYOUTS = ("auto", "image", "pixels", *_POINTS, *_BOXES)


def output_layouts(layout, model, structure):
    """Returns one layout per flat output.

    Args:
        layout: One of `LAYOUTS` for all outputs, or a list or dictionary of them.
        model: The model.
        structure: Its outputs.
    """
    flat = keras.tree.flatten(structure)
    names = list(getattr(model, "output_names", None) or [])
    if isinstance(layout, str):
        layouts = [layout] * len(flat)
    elif isinstance(layout, dict):
        known = dict(structure) if isinstance(structure, dict) else dict.fromkeys(names)
        if not set(layout) <= set(known):
            raise ValueError(f"`layout` must name outputs of the model, {sorted(known)}. Received: layout={layout}")
        given = {name: layout.get(name, "auto") for name in known}
        layouts = keras.tree.flatten(given) if isinstance(structure, dict) else [given[name] for name in names]
    else:
        layouts = keras.tree.flatten(layout)
    if len(layouts) != len(flat):
        raise ValueError(f"`layout` must match the model's {len(flat)} outputs. Received: layout={layout}")
    return layouts


def restored_prediction(group, y, layout, task, samples, start):
    """Maps views' predictions of one output back to the image; also returns which positions each view shows.

    Args:
        group: `ViewGroup`, the views of one shape.
        y: `(draws * batch, ...)`.
        layout: One of `LAYOUTS`.
        task: The output's `Task`.
        samples, start: As for `ViewGroup.make`.

    Returns:
        The predictions, and `None` where the view shows all of them, else Booleans without the last axis.
    """
    if not group.moves or layout == "image":
        return y, None
    grid = None
    if layout in ("auto", "pixels"):
        grid = _grid(tuple(y.shape[1:]), group.view_size, layout, task, group.views)
        if grid is None:
            return y, None
    if group.matrices is None:
        raise ValueError(
            "Predictions per pixel or position of several views can't be averaged: these views have no map back "
            "to the image. Use views that have one (Flips, MultiScale without crops, an Augment of flips, shifts, "
            "rotations, stretches and shears, your own class of kregkit.data.Views with `matrices`), or pass "
            f"layout='image' if the output doesn't follow the image's pixels. Received: views={group.views!r}, "
            f"output of shape {tuple(y.shape)}"
        )
    matrices = group.matrices(samples, start)
    if grid is None:
        return _restored_coordinates(y, layout, matrices, group.view_size, group.image_size), None
    size = grid.shape
    if group.view_size != group.image_size:
        size = tuple(_scaled(*sizes) for sizes in zip(group.image_size, group.view_size, grid.shape))
    exact = group.mirrors or (group.whole_pixels and grid.spacing == (1, 1))
    pixels = y if y.shape.rank == 4 else tf.reshape(y, [-1, *grid.shape, y.shape[-1] if grid.channels else 1])
    result, seen = restore(pixels, matrices, None if None in size else size, grid.spacing, exact)
    if y.shape.rank < 4:
        shape = [math.prod(size)] if grid.flat else size
        result = tf.reshape(result, [-1, *shape, y.shape[-1]] if grid.channels else [-1, *shape])
        seen = tf.reshape(seen, [-1, *shape])
    return result, None if group.mirrors else seen


@dataclasses.dataclass(frozen=True)
class _Grid:
    """The grid over an image whose cells an output predicts.

    Attributes:
        shape: Pair, rows and columns.
        spacing: Pair, how many pixels lie between two neighbouring rows and columns.
        flat: Boolean, whether rows and columns share one axis.
        channels: Boolean, whether another axis follows.
    """

    shape: tuple
    spacing: tuple = (1, 1)
    flat: bool = False
    channels: bool = True


def _grid(shape, view_size, layout, task, views):
    """Returns the `_Grid` of an output `(batch, *shape)`, or `None` for one prediction per image.

    Raises:
        ValueError: The shape allows both, or no grid fits it.
    """
    grid = _grid_from_shape(shape, view_size, task) if layout == "auto" else _declared_grid(shape, view_size)
    if grid is False:
        raise ValueError(
            f"An output of shape {(None, *shape)} doesn't tell which parts of the image its numbers belong to. "
            "Pass layout='image' for one prediction per image, layout='pixels' for one per pixel or per cell of a grid "
            f"over the image, or a format such as 'rel_xyxy' for boxes. Received: layout={layout!r}, views={views!r}"
        )
    return grid


def _grid_from_shape(shape, view_size, task):
    """Returns the `_Grid`, `None` for one prediction per image, or `False` if the shape allows both."""
    if len(shape) == 3 and shape[:2] == (1, 1):
        return None
    if view_size is None or None in view_size:
        # Of an input of rank 4 whose size isn't known before it is fed.
        return None if len(shape) < 2 else _Grid(shape[:2]) if len(shape) == 3 and view_size else False
    pixels = math.prod(view_size)
    if len(shape) == 3:
        spacing = (1, 1) if None in shape[:2] else _spacing(view_size, shape[:2])
        return spacing is not None and _Grid(shape[:2], spacing)
    # The last axis of a distribution holds classes.
    classes = task.link == "softmax"
    if len(shape) == 2:
        if shape == view_size and not classes:
            return _Grid(shape, channels=False)
        return shape[0] == pixels > 1 and _Grid(view_size, flat=True)
    if len(shape) < 2:
        # A picture in one row, as a dense decoder gives it, can't be told from so many numbers about the image.
        a_picture = len(shape) == 1 and pixels > 1 and shape[0] in (pixels, 3 * pixels)
        return False if a_picture and not classes else None
    return False


def _declared_grid(shape, view_size):
    """Returns the `_Grid` of an output that `layout` says has one, or `False` if none fits."""
    if view_size is None or len(shape) not in (1, 2, 3):
        return False
    if len(shape) == 3:
        if None in (*shape[:2], *view_size):
            return _Grid(shape[:2])
        ratio = tuple(pixels / cells for pixels, cells in zip(view_size, shape))
        return _Grid(shape[:2], _spacing(view_size, shape[:2]) or ratio)
    if None in (*shape, *view_size):
        return False
    if len(shape) == 2 and _spacing(view_size, shape) == (1, 1):
        return _Grid(shape, channels=False)
    for stride in range(1, max(view_size) + 1):
        cells = tuple(math.ceil(pixels / stride) for pixels in view_size)
        if math.prod(cells) == shape[0]:
            return _Grid(cells, (stride, stride), flat=True, channels=len(shape) == 2)
    return False


def _spacing(view_size, cells):
    """Returns how many pixels lie between cells: of a stride, of a finer grid, or of a grid without a border."""
    for stride in range(1, max(view_size) + 1):
        if all(c in (math.ceil(p / stride), p // stride) for p, c in zip(view_size, cells)):
            return stride, stride
        if all(c == p * stride for p, c in zip(view_size, cells)):
            return 1 / stride, 1 / stride
    borders = {pixels - cell for pixels, cell in zip(view_size, cells)}
    # Convolutions without padding lose as much in both directions.
    return (1, 1) if len(borders) == 1 and 0 < borders.pop() < min(view_size) else None


def _scaled(image, view, cells):
    """Returns how many cells an image of `image` pixels has, if a view of `view` pixels has `cells`."""
    for stride in range(1, view + 1):
        if cells == math.ceil(view / stride):
            return math.ceil(image / stride)
        if cells == view // stride:
            return image // stride
    return max(1, round(image * cells / view))


def _restored_coordinates(y, layout, matrices, view_size, image_size):
    """Maps points or boxes, the last axis of `y` in the format `layout`, from views to the image."""
    relative = layout.startswith("rel_")
    layout = layout.removeprefix("rel_")
    per_item = 2 if layout in _POINTS else 4
    if y.shape[-1] is None or y.shape[-1] % per_item or None in (view_size or [None]):
        raise ValueError(
            f"An output of {per_item} numbers per item must have a last axis of a multiple of {per_item}, and views be "
            f"images of a known size. Received: layout={layout!r}, output of shape {tuple(y.shape)}"
        )
    values = tf.cast(y, "float32")
    items = tf.reshape(values, [tf.shape(y)[0], -1, per_item])
    (view_height, view_width), (height, width) = (
        tuple(tf.cast(side, "float32") for side in size) for size in (view_size, image_size)
    )
    scale = tf.stack([view_width, view_height] if relative else [1.0, 1.0])
    back = tf.stack([width, height] if relative else [1.0, 1.0])

    def mapped(points):
        """Returns points `(rows, num, 2)`, x and y from the view's upper left corner, in the image's."""
        centred = points * scale - tf.stack([view_width, view_height]) / 2
        moved = tf.einsum("rij,rnj->rni", matrices[:, :2, :2], centred) + matrices[:, None, :2, 2]
        return (moved + tf.stack([width, height]) / 2) / back

    if per_item == 2:
        result = mapped(items)
    else:
        low, high = _corners(items, layout)
        corners = [mapped(tf.stack([x[..., 0], y[..., 1]], -1)) for x in (low, high) for y in (low, high)]
        result = _from_corners(tf.reduce_min(corners, 0), tf.reduce_max(corners, 0), layout)
    return tf.cast(tf.reshape(result, tf.shape(y)), y.dtype)


def _corners(boxes, layout):
    """Returns the upper left and the lower right corner, x first, of boxes in a format."""
    first, second = boxes[..., :2], boxes[..., 2:]
    if layout == "yxyx":
        return first[..., ::-1], second[..., ::-1]
    if layout == "xywh":
        return first, first + second
    if layout == "center_xywh":
        return first - second / 2, first + second / 2
    return first, second


def _from_corners(low, high, layout):
    if layout == "yxyx":
        low, high = low[..., ::-1], high[..., ::-1]
    elif layout == "xywh":
        high = high - low
    elif layout == "center_xywh":
        low, high = (low + high) / 2, high - low
    return tf.concat([low, high], -1)
