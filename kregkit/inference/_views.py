"""Several versions of one input, and the way back from their predictions to the input's own pixels."""

import dataclasses
import math
import types
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from kregkit._core.checks import check_choice, shown
from kregkit.data import Augment, RandomViews, Views, make_keys, restore

_POINTS = ("xy", "rel_xy")
_BOXES = ("xyxy", "rel_xyxy", "yxyx", "rel_yxyx", "xywh", "rel_xywh", "center_xywh", "rel_center_xywh")
LAYOUTS = ("auto", "image", "pixels", *_POINTS, *_BOXES)


class InputViews:
    """Versions of a batch of inputs, made for the draws of one pass.

    Args:
        views: `kregkit.data.Views`, which give a fixed number of versions; `kregkit.data.Augment`, which gives a new
            one for each draw; a callable from a batch of images to `(views, batch, ...)` or to a list of batches; or a
            dictionary from one input's name to any of these.
        seed: Integer, for `Augment`.
        layout: What the model's outputs say of an image, as in `marginalize`.
    """

    def __init__(self, views, seed, layout="auto"):
        self.name = None
        if isinstance(views, dict):
            (self.name, views), *others = views.items()
            if others:
                raise ValueError(f"`views` must name one input of the model. Received: views={[self.name, *others]}")
        if not callable(views):
            raise ValueError(f"`views` must be callable, or a dictionary of one callable. Received: views={views!r}")
        for one in [layout] if isinstance(layout, str) else keras.tree.flatten(layout):
            check_choice("layout", one, LAYOUTS)
        self.views, self.seed, self.layout = views, seed, layout
        self.augment = None
        if isinstance(views, Augment):
            self.augment = views
        elif isinstance(views, RandomViews):
            self.augment, self.seed = views.augment, views.seed
        if self.augment is not None and self.augment.mixes:
            raise ValueError(f"`views` must not mix examples, as MixUp and CutMix do. Received: views={views!r}")

    @property
    def endless(self):
        """True if every draw has a version of its own."""
        return isinstance(self.views, Augment)

    def groups(self, inputs, model):
        """Returns a list of `ViewGroup`, one per shape of the views."""
        leaves = keras.tree.flatten(inputs)
        viewed_index = self._viewed_input(inputs, leaves)
        images = leaves[viewed_index]

        def folded(image, k):
            """Returns inputs whose image is `image`, `(k * batch, ...)`, and the others repeated."""
            return keras.tree.pack_sequence_as(
                inputs,
                [image if index == viewed_index else repeated(leaf, k) for index, leaf in enumerate(leaves)],
            )

        if self.augment is not None:
            return [self._random_group(images, folded)]
        is_views = isinstance(self.views, Views)
        viewed = self.views.each(images) if is_views else self.views(images)
        matrices = self.views.matrices(*images.shape[1:3]) if hasattr(self.views, "matrices") else None
        groups = []
        for indices, group in _by_shape(viewed):
            _check_size(model, inputs, viewed_index, group)
            own = None if matrices is None else np.asarray(matrices, "float32")[indices]
            groups.append(_fixed_group(group, own, images, folded, self.views))
        return groups

    def _random_group(self, images, folded):
        number = 1 if self.endless else self.views.num_views
        augment = self.augment

        def keys(samples, start):
            view = samples if self.endless else samples % number
            rows = tf.shape(images)[0]
            return tf.reshape(make_keys(self.seed, view[:, None], start + tf.range(tf.cast(rows, "int64"))[None]), [-1])

        def make(samples, start):
            k = samples.shape[0]
            return folded(augment(repeated(images, k), keys(samples, start)), k)

        size = _size(images)
        sides = (tf.shape(images)[1], tf.shape(images)[2]) if size is None or None in size else size
        # Whether there is an inverse doesn't depend on the draws.
        invertible = augment.moves and augment.matrices(tf.zeros([1], "int64"), *sides) is not None
        matrices = (lambda samples, start: augment.matrices(keys(samples, start), *sides)) if invertible else None
        # A crop's size isn't known here, nor is it needed: there is no way back from it.
        view_size = size if invertible or size is None else (None, None)
        return ViewGroup(number, make, matrices, augment.moves, augment.exact, False, view_size, size, self.views)

    def layouts(self, model, structure):
        """Returns one layout per flat output."""
        flat = keras.tree.flatten(structure)
        names = list(getattr(model, "output_names", None) or [])
        if isinstance(self.layout, str):
            layouts = [self.layout] * len(flat)
        elif isinstance(self.layout, dict):
            known = dict(structure) if isinstance(structure, dict) else dict.fromkeys(names)
            if not set(self.layout) <= set(known):
                raise ValueError(
                    f"`layout` must name outputs of the model, {sorted(known)}. Received: layout={self.layout}"
                )
            given = {name: self.layout.get(name, "auto") for name in known}
            layouts = keras.tree.flatten(given) if isinstance(structure, dict) else [given[name] for name in names]
        else:
            layouts = keras.tree.flatten(self.layout)
        if len(layouts) != len(flat):
            raise ValueError(f"`layout` must match the model's {len(flat)} outputs. Received: layout={self.layout}")
        return layouts

    def _viewed_input(self, inputs, leaves):
        if self.name is not None:
            if not isinstance(inputs, dict) or self.name not in inputs:
                raise ValueError(f"`views` must name an input of the model. Received: views={{{self.name!r}: ...}}")
            return [leaf is inputs[self.name] for leaf in leaves].index(True)
        images = [index for index, leaf in enumerate(leaves) if leaf.shape.rank == 4]
        if len(images) != 1 and len(leaves) > 1:
            raise ValueError(
                f"Views need one input of images, and the model has {len(images)} of {len(leaves)} inputs. Pass a "
                "dictionary from an input's name to its views"
            )
        return images[0] if images else 0

    def get_config(self):
        """Returns what `from_config` rebuilds these views from."""
        views = keras.saving.serialize_keras_object(self.views)
        return {"name": self.name, "seed": self.seed, "views": views, "layout": self.layout}

    @classmethod
    def from_config(cls, config):
        views = config["views"]
        is_object = isinstance(views, dict) and isinstance(views.get("class_name"), str) and "config" in views
        # Keras looks a function up by its `config`, a class by its `registered_name`, and "__lambda__" by neither.
        is_function = is_object and views["class_name"] == "function"
        name = views.get("config" if is_function else "registered_name") if is_object else None
        if is_object and views["class_name"].startswith("__"):
            name = None
        known = keras.saving.get_registered_object(name) if isinstance(name, str) else None
        if known is None or is_function != isinstance(known, types.FunctionType):
            # A name that isn't registered would be looked up in the module that the file says.
            raise ValueError(
                "The views of a saved model must be a class or function that is registered with Keras "
                f"(keras.saving.register_keras_serializable). Received: views={shown(views)}"
            )
        views = keras.saving.deserialize_keras_object(views)
        return cls(views if config["name"] is None else {config["name"]: views}, config["seed"], config["layout"])


@dataclasses.dataclass
class ViewGroup:
    """The views of one shape.

    Attributes:
        number: Integer, how many.
        make: Callable `(samples, start)` that returns the folded inputs of these draws, whose views take turns.
        matrices: Callable `(samples, start)` that returns `(draws * batch, 3, 3)`, where the pixels of each view lie
            in the image; `None` where that isn't known.
        moves: Boolean, whether views may move pixels.
        whole_pixels: Boolean, whether they are only mirrored and shifted by whole pixels.
        mirrors: Boolean, whether they are only mirrored.
        view_size, image_size: Pairs `(height, width)`; `None` where the input isn't an image.
        views: The views, for messages.
    """

    number: int
    make: Callable
    matrices: Callable | None
    moves: bool
    whole_pixels: bool
    mirrors: bool
    view_size: tuple | None
    image_size: tuple | None
    views: object

    def restored(self, y, layout, task, samples, start):
        """Returns a view's predictions of one output, mapped back to the image, and which places the view shows.

        Args:
            y: `(draws * batch, ...)`.
            layout: One of `LAYOUTS`.
            task: The output's `Task`.
            samples, start: As for `make`.

        Returns:
            The predictions, and `None` where the view shows all of them, else Booleans that lack the last axis only.
        """
        if not self.moves or layout == "image":
            return y, None
        grid = None
        if layout in ("auto", "pixels"):
            grid = _grid(tuple(y.shape[1:]), self.view_size, layout, task, self.views)
            if grid is None:
                return y, None
        if self.matrices is None:
            raise ValueError(
                "Predictions per pixel or position of several views can't be averaged: these views have no map back "
                "to the image. Use views that have one (Flips, MultiScale without crops, an Augment of flips, shifts, "
                "rotations, stretches and shears, your own class of kregkit.data.Views with `matrices`), or pass "
                f"layout='image' if the output doesn't follow the image's pixels. Received: views={self.views!r}, "
                f"output of shape {tuple(y.shape)}"
            )
        matrices = self.matrices(samples, start)
        if grid is None:
            return _restored_coordinates(y, layout, matrices, self.view_size, self.image_size), None
        size = grid.shape
        if self.view_size != self.image_size:
            size = tuple(_scaled(*sizes) for sizes in zip(self.image_size, self.view_size, grid.shape))
        exact = self.mirrors or (self.whole_pixels and grid.spacing == (1, 1))
        pixels = y if y.shape.rank == 4 else tf.reshape(y, [-1, *grid.shape, y.shape[-1] if grid.channels else 1])
        result, seen = restore(pixels, matrices, None if None in size else size, grid.spacing, exact)
        if y.shape.rank < 4:
            shape = [math.prod(size)] if grid.flat else size
            result = tf.reshape(result, [-1, *shape, y.shape[-1]] if grid.channels else [-1, *shape])
            seen = tf.reshape(seen, [-1, *shape])
        return result, None if self.mirrors else seen


def _fixed_group(group, matrices, images, folded, views):
    number = group.shape[0]

    def make(samples, start):
        chosen = tf.gather(group, tf.cast(samples % number, "int32"))
        return folded(tf.reshape(chosen, tf.concat([[-1], tf.shape(group)[2:]], 0)), samples.shape[0])

    def located(samples, start):
        chosen = tf.gather(matrices, tf.cast(samples % number, "int32"))
        return tf.repeat(chosen, tf.shape(images)[0], axis=0)

    known = matrices is not None
    moves = not known or not all(np.array_equal(matrix, np.eye(3)) for matrix in matrices)
    mirrors = known and all(np.array_equal(abs(matrix), np.eye(3)) for matrix in matrices)
    sizes = (tuple(group.shape[2:4]), _size(images)) if images.shape.rank == 4 else (None, None)
    if sizes[0] is not None and None in sizes[0]:
        sizes = sizes[1], sizes[1]
    return ViewGroup(number, make, located if known else None, moves, mirrors, mirrors, *sizes, views)


@dataclasses.dataclass(frozen=True)
class _Grid:
    """The places of an image that an output's axes stand for.

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
        ValueError: The output may be either, or it has no such grid.
    """
    found = _told_grid(shape, view_size, task) if layout == "auto" else _wanted_grid(shape, view_size)
    if found is False:
        raise ValueError(
            f"What this output says of an image can't be told from its shape, {(None, *shape)}. Pass layout='image' "
            "for one prediction per image, layout='pixels' for one per pixel or per cell of a grid over the image, or "
            f"a format such as 'rel_xyxy' for boxes. Received: layout={layout!r}, views={views!r}"
        )
    return found


def _told_grid(shape, view_size, task):
    """Returns the `_Grid`, `None` for one prediction per image, or `False` where the shape doesn't tell."""
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


def _wanted_grid(shape, view_size):
    """Returns the `_Grid` of an output that is said to have one, or `False`."""
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


def repeated(x, k):
    """Returns `k` copies of a batch, one after the other."""
    return x if k == 1 else tf.tile(x, [k] + [1] * (x.shape.rank - 1))


def _size(images):
    """Returns the images' height and width, `None` where they aren't known; or `None` for other inputs."""
    return tuple(images.shape[1:3]) if images.shape.rank == 4 else None


def _by_shape(viewed):
    """Returns `(indices, tensor (views, batch, ...))` per shape, in the order in which the shapes appear."""
    if not isinstance(viewed, (list, tuple)):
        if viewed.shape[0] is None:
            raise ValueError("The number of views must be known: views of shape (views, batch, ...)")
        return [(list(range(viewed.shape[0])), viewed)]
    by_shape = {}
    for index, tensor in enumerate(viewed):
        by_shape.setdefault(tuple(tensor.shape[1:]), []).append(index)
    return [(indices, tf.stack([viewed[index] for index in indices])) for indices in by_shape.values()]


def _check_size(model, inputs, viewed_index, group):
    tensors = keras.tree.flatten(getattr(model, "inputs", None) or [])
    # A model made of a list of inputs finds those of a dictionary by name.
    named = {tensor.name: tensor for tensor in tensors}
    tensor = named.get(sorted(inputs)[viewed_index]) if isinstance(inputs, dict) else None
    if tensor is None and len(tensors) > viewed_index:
        tensor = tensors[viewed_index]
    if tensor is None:
        return
    expected, received = tuple(tensor.shape[1:]), tuple(group.shape[2:])
    if len(expected) != len(received) or any(None not in (a, b) and a != b for a, b in zip(expected, received)):
        raise ValueError(
            f"The model takes inputs of shape {expected} only, and a view has shape {received}. Whole images at "
            "several sizes need a model that accepts any size; for this one, cut crops of its size, such as "
            f"MultiScale(sizes, crops=TenCrop({expected[0]}))"
        )
