"""What an augmentation operation is, and several of them as one function of images and keys: fused and replayable."""

import functools
import itertools
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from kregkit._core.checks import check_choice, check_instance
from kregkit._core.types import Tensor
from kregkit.data import _annotations, _random, _warp
from kregkit.data._arguments import Configured, register
from kregkit.data._graph_checks import require, text, text_of
from kregkit.data._image_checks import (
    annotations_tensor,
    as_batch,
    check_annotations,
    check_annotations_of,
    check_masks,
    check_value_range,
    name_in_batch,
)
from kregkit.data.annotations import Boxes, Points
from kregkit.data.views import RandomViews


class ValueRange(typing.NamedTuple):
    """The range `[low, high]` of float images."""

    low: float
    high: float

    def scaled(self, images: Tensor) -> Any:
        """Brings float images in 0..255 to this range."""
        images = images * ((self.high - self.low) / 255)
        return images + self.low if self.low else images

    def floats(self, images: Tensor) -> Any:
        """Returns float32 images in this range from uint8 ones, or from float ones that are in it already."""
        floats = tf.cast(images, tf.float32)
        return self.scaled(floats) if images.dtype == tf.uint8 else floats


class Operation(Configured):
    """Base class of the operations. A subclass stores each argument under its own name and says its number of draws.

    `operation(images, key)` applies it alone; `Augment` applies several and fuses them. A subclass defines `apply`, or
    `run` where neighbours of its kind are applied as one.
    """

    num_draws = 0
    # Preprocessing isn't random: it runs at test time too.
    random = True
    changes_size = False
    # Pair (height, width): smaller images are an error. `None` if any size will do.
    minimum_size = None
    # Integer: no side that comes out is shorter. `None` if that isn't known.
    least_side = None
    # True if contents of the image move to other positions.
    moves_pixels = False
    # True if it mixes each example with another one, labels too: it defines `mix` and `one_hot`.
    mixes = False
    # False if output images may leave the range that colours are clipped to.
    keeps_range = True
    # True if input images must lie in that range.
    needs_range = False

    @property
    def parts(self) -> Any:
        """The operations that this one consists of, which share its draws: itself, in most."""
        return [self]

    def __call__(self, images: Tensor, key: Any = 0, **arguments: Any) -> Any:
        """Applies this operation alone: `Augment([self])(images, key, **arguments)`."""
        return Augment([self])(images, key, **arguments)

    def apply(self, images: Tensor, u: Tensor, value_range: tuple[float, float]) -> Any:
        """Returns float images, from float images in `value_range` and this operation's draws `(batch, num_draws)`."""
        raise NotImplementedError

    def fuses_after(self, group: Tensor) -> Any:
        """Returns whether `run` of the operations in `group` can include this one."""
        return False

    def run(self, group: Tensor, images: Tensor, masks: Tensor, value_range: Any, black: Any) -> Any:
        """Applies operations that fuse, a list of pairs `(operation, u)`, and returns images and masks.

        Args:
            group: The pairs; `u` are an operation's draws, or `None` at test time, when it isn't random.
            images: uint8 or float.
            masks: Tensor or `None`.
            value_range: `ValueRange` of float images.
            black: Number, what shows outside images of this type.
        """
        ((operation, u),) = group
        return operation.apply(value_range.floats(images), u, value_range), masks


@register
class Augment:
    """Applies operations to images, each image by its own key: `augment(images, key)`.

    Neighbouring geometric operations (with the same `fill`) become one transform, and the image is resampled once;
    flips and crops among themselves stay exact copies. Neighbouring colour operations become one matrix per image,
    `y = clip(x M + b)`. Everything else runs by itself in between. So put geometry first, then colour, then the rest.
    The fused transform differs from separate ones in three wanted ways: it is sharper (one interpolation instead of
    several), colours are clipped once, and contents that one operation moves out of the image come back if the next
    one moves them in.

    The result is a pure function of images and keys: the same eagerly, in `ds.map` at any parallelism, in a model. Each
    operation's numbers depend on the key, its class and its position among operations of that class, so that adding
    another operation leaves them as they are.

    Args:
        operations: List of operations, such as `[RandomFlip(), RandomCrop(4), ColorJitter()]`. `Standardize` may be
            followed by no operation on colours, and `MixUp` and `CutMix` come last.
        value_range: Pair `(low, high)`, the range of the images that come out. Defaults to `(0.0, 1.0)`. uint8 images
            are brought from 0..255 to it; float images must be in it already, to within a tenth of its width, which is
            checked where operations on colours clip to it (not under XLA, which can't stop). What comes from outside an
            image is `low`, black, or 0, the mean, after `Standardize`.
        fuse: Boolean, whether to fuse. `False` runs each operation by itself, for comparison.
        boxes, points: `Boxes` and `Points`, which say how those that calls are given are written. Default to `Boxes()`
            and `Points()`: pixels.

    Raises:
        ValueError: if the operations can't stand in this order, or an argument is bad.

    Example, inside any `ds.map`:

    >>> import numpy as np, tensorflow as tf
    >>> from kregkit.data import Augment, RandomFlip, RandomCrop, ColorJitter, make_keys
    >>> augment = Augment([RandomFlip(), RandomCrop(4), ColorJitter(0.4, 0.4, 0.4)])
    >>> dataset = tf.data.Dataset.from_tensor_slices(np.zeros((6, 32, 32, 3), "uint8"))
    >>> dataset = dataset.enumerate().map(lambda index, image: augment(image, make_keys(0, 0, index)))
    >>> tuple(next(iter(dataset)).shape)
    (32, 32, 3)
    """

    def __init__(
        self,
        operations: Sequence[Any],
        value_range: tuple[float, float] = (0.0, 1.0),
        fuse: bool = True,
        boxes: Boxes | None = None,
        points: Points | None = None,
    ) -> None:
        if isinstance(operations, Operation):
            operations = [operations]
        if not isinstance(operations, (list, tuple)) or not all(isinstance(one, Operation) for one in operations):
            raise ValueError(f"`operations` must be a list of kregkit.data operations. Received: {operations=}")
        good = isinstance(value_range, (tuple, list)) and len(value_range) == 2
        if not (good and all(isinstance(end, (int, float)) for end in value_range) and value_range[0] < value_range[1]):
            raise ValueError(
                f"`value_range` must be a pair (low, high), low < high. Received: value_range={value_range!r}"
            )
        self.operations = list(operations)
        self.value_range = ValueRange(*map(float, value_range))
        self.fuse = check_choice("fuse", fuse, (True, False))
        self.boxes = check_instance("boxes", boxes, Boxes, "kregkit.data.Boxes", none=True)
        self.points = check_instance("points", points, Points, "kregkit.data.Points", none=True)
        self._check_order()
        counts: dict[str, int] = {}
        self._names = []
        for operation in self.operations:
            kind = type(operation).__name__
            counts[kind] = counts.get(kind, -1) + 1
            self._names.append(f"{kind}/{counts[kind]}")
        # What runs, each with the index of the operation whose draws it takes.
        self._parts = [(index, part) for index, one in enumerate(self.operations) for part in one.parts]
        self.mixes = any(one.mixes for one in self.operations)
        # A new object for each Augment: TensorFlow warns of retracing by a method's code, which all of them share.
        self._python = functools.partial(self._run)
        self._functions: dict[typing.Any, typing.Any] = {}

    def _check_order(self):
        # What stands between two of these leaves the size as it is.
        for operation, later in itertools.pairwise([one for one in self.operations if one.changes_size]):
            if None not in (operation.least_side, later.minimum_size) and operation.least_side < max(
                later.minimum_size
            ):
                raise ValueError(
                    f"{later} needs images of at least its size, and {operation} gives shorter sides. "
                    f"Received: operations={self.operations}"
                )
        for operation, later in itertools.combinations(self.operations, 2):
            if not operation.keeps_range and (not later.keeps_range or later.needs_range):
                raise ValueError(
                    "`Standardize` leaves the range that colours are clipped to, so it must follow the operations on "
                    f"colours. Received: operations={self.operations}"
                )
            if operation.mixes and not later.mixes:
                raise ValueError(f"`MixUp` and `CutMix` must come last. Received: operations={self.operations}")

    def __call__(
        self,
        images: Tensor,
        key: Any,
        labels: Tensor = None,
        masks: Tensor = None,
        training: bool = True,
        boxes: Any = None,
        points: int | Mapping[str, int] | None = None,
    ) -> Any:
        """Applies the operations.

        Args:
            images: uint8 or float, `(batch, h, w, channels)`, or one image `(h, w, channels)`.
            key: Integer tensor: one per image, as `make_keys` gives them, or a single one, from which those of a batch
                are derived.
            labels: What `MixUp` and `CutMix` mix, `(batch, ...)`; needed by them unless there are boxes or points, else
                passed through.
            masks: Segmentation masks `(batch, h, w)` or `(batch, h, w, channels)`, which geometric operations
                move along.
            training: Python Boolean. `False` leaves out what is random: crops to a size take the centre,
                `Standardize` acts, and labels are one-hot where `MixUp` and `CutMix` would have made them so.
            boxes: `(batch, num, 4)`, or a dictionary of these as `boxes` and of their classes as `labels`,
                `(batch, num)`, as Keras's layers take it.
            points: `(batch, num, 2 or 3)`, or `(batch, instances, num, 2 or 3)`.

        Returns:
            float32 images, or a tuple of images and those of labels, masks, boxes and points that were given. Boxes and
            points come as `Boxes` and `Points` say: -1 for those that are seen no longer.
        """
        images, keys, single = as_batch(images, key)
        if single and self.mixes and training:
            raise ValueError("`MixUp` and `CutMix` need a batch. Received: images of rank 3")

        def tensor(value):
            value = None if value is None else tf.convert_to_tensor(value)
            return value[None] if single and value is not None else value

        def numbers(name, value):
            return tensor(annotations_tensor(name, value))

        others = {"labels": tensor(labels), "masks": tensor(masks), "points": numbers("points", points)}
        in_dictionary = isinstance(boxes, dict)
        others["boxes"] = (
            {name: numbers(name, value) for name, value in boxes.items()} if in_dictionary else numbers("boxes", boxes)
        )
        check_annotations_of(images, others["boxes"], others["points"])
        if tf.executing_eagerly():
            try:
                results = self._compiled(images, others)(images, keys, others, bool(training))
            except tf.errors.InvalidArgumentError as error:
                if text_of(error) is None:
                    raise
                raise ValueError(text_of(error)) from None
        else:
            results = self._run(images, keys, others, bool(training))
        if single:
            results = tf.nest.map_structure(lambda value: None if value is None else value[0], results)
        results = tuple(value for value in results if value is not None)
        return results if len(results) > 1 else results[0]

    def __repr__(self):
        return f"Augment({self.operations}, value_range={tuple(self.value_range)}, fuse={self.fuse})"

    def get_config(self) -> dict[str, Any]:
        config = {"operations": self.operations, "value_range": tuple(self.value_range), "fuse": self.fuse}
        return {**config, "boxes": self.boxes, "points": self.points}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        # Keras serializes objects inside a config, and leaves it to the class to deserialize them.
        return cls(**{
            name: keras.saving.deserialize_keras_object(value) if isinstance(value, (dict, list)) else value
            for name, value in config.items()
        })  # fmt: skip

    @property
    def moves(self) -> bool:
        """True if some operation moves pixels."""
        return any(operation.moves_pixels for operation in self.operations)

    @property
    def exact(self) -> bool:
        """True if pixels are only mirrored and shifted by whole pixels, which copies."""
        return all(operation.exact for operation in self.operations if operation.moves_pixels)

    def matrices(self, keys: Tensor, height: Tensor, width: Tensor) -> Any:
        """Returns where the pixels of augmented images lie in the images: `(batch, 3, 3)`, as `Views.matrices` does.

        `None` where there is no such map: a crop that is smaller than the image, or a lens's distortion.

        Args:
            keys: The keys, `(batch,)`, that the images were augmented by.
            height, width: The images' size.
        """
        moving = [(index, one) for index, one in enumerate(self.operations) if one.moves_pixels]
        if not all(operation.invertible for _, operation in moving):
            return None
        matrices = tf.eye(3, batch_shape=[tf.size(keys)])
        for index, operation in moving:
            matrices = matrices @ operation.matrix(self.draws(keys, index), height, width)
        return matrices

    def views(self, num_views: int, seed: int | None = 0) -> Any:
        """Returns these augmentations as test-time views: see `kregkit.data.RandomViews`."""
        return RandomViews(self, num_views, seed)

    def _compiled(self, *values):
        """Returns the graph that eager calls share: one for each size of image, and for any number of images."""
        shapes = tuple(None if one is None else (one.shape.rank, *one.shape[1:]) for one in tf.nest.flatten(values))
        if shapes not in self._functions:
            self._functions[shapes] = tf.function(self._python, autograph=False, reduce_retracing=True)
        return self._functions[shapes]

    def _run(self, images, keys, others, training):
        labels, masks, boxes, points = (others[name] for name in ("labels", "masks", "boxes", "points"))
        self.check_images(images, training)
        annotations = self.read(boxes, points, images)
        annotations = self.move(annotations, keys, images, training)
        images, masks = self.transform(images, keys, masks, training)
        if self.mixes and training:
            if labels is None and annotations is None:
                raise ValueError("`MixUp` and `CutMix` need labels. Received: labels=None")
            annotations = self.mix_annotations(annotations, keys, images)
        if labels is not None:
            self.check_labels(labels)
        images, labels = self.mix(images, labels, keys, training=training)
        return images, labels, masks, *self.write(annotations, boxes, points, images)

    def read(self, boxes: Any, points: int | Mapping[str, int], images: Tensor) -> Any:
        """Returns `Annotations` from the boxes and points that a call was given, or `None`."""
        if boxes is None and points is None:
            return None
        rows = []
        if isinstance(boxes, dict):
            rows, boxes = [boxes[name] for name in sorted(boxes) if name != "boxes"], boxes["boxes"]
        check_annotations(boxes, points)
        box_format, point_format = (self.boxes or Boxes()).format, (self.points or Points()).format
        return _annotations.read(boxes, rows, box_format, points, point_format, _warp.sizes(images))

    def move(self, annotations: Any, keys: Tensor, images: Tensor, training: bool = True) -> Any:
        """Moves `Annotations` of images before `transform` along with their contents. Returns them."""
        if annotations is None:
            return None
        size = _warp.sizes(images)
        for group in self._groups(training):
            if group[0][1].moves_pixels:
                pairs = [(operation, self.draws(keys, index) if training else None) for index, operation in group]
                steps, new_size = _warp.steps_of(pairs, tf.shape(images)[0], *size)
                annotations, size = annotations.moved(steps, size, new_size), new_size
        return annotations

    def mix_annotations(self, annotations: Any, keys: Tensor, images: Tensor, others: Tensor = None) -> Any:
        """Returns `Annotations` of mixed examples. `others` are those of the partners, by default from the batch."""
        if annotations is None or not self.mixes:
            return annotations
        if others is None:
            others = annotations.gather(self.partners(keys))
        for index, operation in enumerate(self.operations):
            if operation.mixes:
                draws = self.draws(keys, index)
                annotations = operation.mix_annotations(annotations, others, draws, _warp.sizes(images))
        return annotations

    def write(self, annotations: Any, boxes: Any, points: Any, images: Tensor) -> Any:
        """Returns boxes and points in the form in which a call was given them."""
        size = _warp.sizes(images)
        if boxes is not None:
            numbers, rows = _annotations.write_boxes(annotations, self.boxes or Boxes(), size)
            names = sorted(name for name in boxes if name != "boxes") if isinstance(boxes, dict) else []
            boxes = {"boxes": numbers, **dict(zip(names, rows))} if isinstance(boxes, dict) else numbers
        if points is not None:
            instance = points.shape[-2] if points.shape.rank == 4 else None
            point_format = (self.points or Points()).format
            points = _annotations.write_points(annotations, point_format, size, instance, points.shape[-1])
        return boxes, points

    def check_images(
        self,
        images: Tensor,
        training: bool = True,
        name: Callable[[Any], Any] = name_in_batch,
        range_matters: Any = False,
    ) -> Any:
        """Raises an error, eagerly or in the graph, if the images break a promise.

        Args:
            images: A batch.
            training: Boolean.
            name: Callable from a row to a string, what an error calls this image.
            range_matters: Boolean, whether float images must lie in the range although no operation needs it.
        """
        active = self._active(training)
        if images.dtype.is_floating and (range_matters or any(operation.needs_range for _, operation in active)):
            check_value_range(images, self.value_range, name)
        if None in images.shape[1:3]:
            height, width = tf.unstack(tf.shape(images)[1:3])
            self.check_size(height, width, tf.shape(images)[0] == 0, training, name)

    def check_size(
        self,
        height: Tensor,
        width: Tensor,
        empty: Any,
        training: bool = True,
        name: Callable[[Any], Any] = name_in_batch,
    ) -> Any:
        """Raises an error in the graph if images are too small for the first window that is cut out of them."""
        resizing = next((operation for _, operation in self._active(training) if operation.changes_size), None)
        if resizing is not None and resizing.minimum_size is not None:
            most = resizing.minimum_size
            require(
                (height >= most[0]) & (width >= most[1]) | empty,
                lambda: text(
                    name(0), f" must be at least {most[0]}x{most[1]} for the window of {resizing}: make the window "
                    "smaller, add `padding`, or use RandomResizedCrop. Received: an image of ", height, "x", width,
                ),
            )  # fmt: skip

    def check_sizes(self, sizes: Tensor, training: bool, name: Callable[[Any], Any]) -> None:
        """Raises an error in the graph that names the first of several images that is too small.

        Args:
            sizes: int32 `(num, 2)`, heights and widths.
            training: Boolean.
            name: Callable from a row to a string.
        """
        resizing = next((operation for _, operation in self._active(training) if operation.changes_size), None)
        if resizing is not None and resizing.minimum_size is not None:
            row = tf.argmax(tf.reduce_any(sizes < tf.constant(resizing.minimum_size), 1))
            self.check_size(sizes[row, 0], sizes[row, 1], tf.constant(False), training, lambda _: name(row))

    def check_labels(self, labels: Tensor, name: Callable[[Any], Any] = name_in_batch) -> Any:
        """Raises an error, eagerly or in the graph, if the labels can't be mixed. Arguments as for `check_images`."""
        labels = tf.convert_to_tensor(labels)
        for operation in self.operations:
            if operation.mixes:
                operation.check_labels(labels, name)

    def draws(self, keys: Tensor, index: int) -> Any:
        """Returns the uniform numbers of the operation at an index, `(batch, num_draws)`."""
        return _random.uniform(keys, self._names[index], self.operations[index].num_draws)

    def transform(
        self, images: Tensor, keys: Tensor, masks: Tensor = None, training: bool = True, num_done: Any = 0
    ) -> Any:
        """Applies all operations but the mixing ones to a batch. Returns float32 images in the range, and masks.

        Those of the first `num_done` groups have been applied before.
        """
        if masks is not None:
            if self.mixes:
                raise ValueError(f"`MixUp` and `CutMix` can't mix masks. Received: operations={self.operations}")
            check_masks(images, masks)
        keeps_range = True
        for group in self._groups(training)[num_done:]:
            # Zeros outside mean black, which is the range's lower end; the mean, after `Standardize`.
            black = 0.0 if images.dtype == tf.uint8 or not keeps_range else self.value_range.low
            pairs = [(operation, self.draws(keys, index) if training else None) for index, operation in group]
            first = pairs[0][0]
            images, masks = first.run(pairs, images, masks, self.value_range, black)
            keeps_range = keeps_range and first.keeps_range
        return self.value_range.floats(images), masks

    def mix(self, images: Tensor, labels: Tensor, keys: Tensor, others: Tensor = None, training: bool = True) -> Any:
        """Applies the mixing operations, which come last; at test time labels only take the form that they give.

        Args:
            images: Transformed images.
            labels: Their labels, as they came.
            keys: The keys of the examples.
            others: Pair of transformed images and labels of the examples' partners, or `None` for partners from the
                batch itself.
            training: Boolean.
        """
        mixing = [(index, operation) for index, operation in enumerate(self.operations) if operation.mixes]
        if not mixing:
            return images, labels
        if labels is None:
            # Examples that have boxes or points alone.
            nothing = tf.zeros((tf.shape(images)[0], 1))
            others = None if others is None else (others[0], nothing)
            if training:
                others = others or (tf.gather(images, self.partners(keys)), nothing)
                for index, operation in mixing:
                    images, _ = operation.mix(images, nothing, *others, self.draws(keys, index))
            return images, None
        if others is None and training:
            partners = self.partners(keys)
            others = tf.gather(images, partners), tf.gather(labels, partners)
        for _, operation in mixing:
            labels = operation.one_hot(labels)
        if training:
            other_images, other_labels = others
            for _, operation in mixing:
                other_labels = operation.one_hot(other_labels)
            for index, operation in mixing:
                images, labels = operation.mix(images, labels, other_images, other_labels, self.draws(keys, index))
        return images, labels

    def partners(self, keys: Tensor) -> Any:
        """Returns each example's partner: the next one in an order drawn by key, never itself in a batch of two."""
        order = tf.argsort(_random.uniform(keys, "partner", 1)[:, 0], stable=True)
        return tf.gather(order, (tf.argsort(order) + 1) % tf.size(order))

    def _active(self, training):
        """Returns the parts that act: what is random only in training; none that mixes."""
        return [
            (index, operation)
            for index, operation in self._parts
            if not operation.mixes and (training or operation.changes_size or not operation.random)
        ]

    def _groups(self, training):
        """Returns lists of parts that run as one."""
        groups = []
        for index, operation in self._active(training):
            if self.fuse and groups and operation.fuses_after([one for _, one in groups[-1]]):
                groups[-1].append((index, operation))
            else:
                groups.append([(index, operation)])
        return groups
