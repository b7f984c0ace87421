"""Several operations as one function of images and keys: fused, cast once, replayable."""

import functools
import itertools

import keras
import numpy as np
import tensorflow as tf

from kregkit._core.checks import check_choice
from kregkit.data import _random, _warp
from kregkit.data._operation import Operation, register
from kregkit.data.color import Color, Standardize
from kregkit.data.geometry import Geometric
from kregkit.data.mixing import Mixing


@register
class Augment:
    """Applies operations to images, each image by its own key: `augment(images, key)`.

    Neighbouring geometric operations (with the same `fill`) become one transform, and the image is resampled once;
    flips and crops among themselves stay exact copies. Neighbouring colour operations become one matrix per image,
    `y = clip(x M + b)`. Everything else runs by itself in between. So put geometry first, then colour, then the rest.
    What the fused transform shows differs from the composed ones in three wanted ways: it is sharper (one
    interpolation instead of several), colours are clipped once, and what one operation pushed out of the image comes
    back if the next one pulls it in.

    The result is a pure function of images and keys: the same eagerly, in `ds.map` at any parallelism, in a model.
    Each operation's numbers depend on the key, its class and its place among operations of that class, so that adding
    another operation leaves them as they are.

    Args:
        operations: List of operations, such as `[RandomFlip(), RandomCrop(4), ColorJitter()]`. `Standardize` may be
            followed by no operation on colours, and `MixUp` and `CutMix` come last.
        value_range: Pair `(low, high)`, the range of the images that come out. Defaults to `(0.0, 1.0)`. uint8 images
            are brought from 0..255 to it; float images must be in it already. What comes from outside an image is
            `low`, black, or 0, the mean, after `Standardize`.
        fuse: Boolean, whether to fuse. `False` runs each operation by itself, for comparison.

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

    def __init__(self, operations, value_range=(0.0, 1.0), fuse=True):
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
        self.value_range = tuple(map(float, value_range))
        self.fuse = check_choice("fuse", fuse, (True, False))
        self._check_order()
        seen = {}
        self._names = []
        for operation in self.operations:
            kind = type(operation).__name__
            seen[kind] = seen.get(kind, -1) + 1
            self._names.append(f"{kind}/{seen[kind]}")
        self.mixes = any(isinstance(one, Mixing) for one in self.operations)
        # Not the method: TensorFlow warns of retracing by its code, which every Augment shares.
        self._python = functools.partial(self._run)
        self._functions = {}

    def _check_order(self):
        for one, other in itertools.combinations(self.operations, 2):
            if isinstance(one, Standardize) and isinstance(other, (Color, Standardize)):
                raise ValueError(
                    "`Standardize` leaves the range that colours are clipped to, so it must follow the operations on "
                    f"colours. Received: operations={self.operations}"
                )
            if isinstance(one, Mixing) and not isinstance(other, Mixing):
                raise ValueError(f"`MixUp` and `CutMix` must come last. Received: operations={self.operations}")

    def __call__(self, images, key, labels=None, masks=None, training=True):
        """Applies the operations.

        Args:
            images: uint8 or float, `(batch, h, w, channels)`, or one image `(h, w, channels)`.
            key: Integer tensor: one per image, as `make_keys` gives them, or a single one, from which those of a batch
                are derived.
            labels: What `MixUp` and `CutMix` mix, `(batch, ...)`; needed by them, else passed through.
            masks: Segmentation masks `(batch, h, w)` or `(batch, h, w, channels)`, which geometric operations
                move along.
            training: Python Boolean. `False` leaves out what is random: crops to a size take the centre,
                `Standardize` acts, and labels are one-hot where `MixUp` and `CutMix` would have made them so.

        Returns:
            float32 images, or a tuple of images and those of labels and masks that were given.
        """
        images, key, keys, single = self._ready(images, key)
        if single:
            if self.mixes and training:
                raise ValueError("`MixUp` and `CutMix` need a batch. Received: images of rank 3")
            labels, masks = (None if value is None else tf.convert_to_tensor(value)[None] for value in (labels, masks))
        labels, masks = (None if value is None else tf.convert_to_tensor(value) for value in (labels, masks))
        run = self._compiled(images, labels, masks) if tf.executing_eagerly() else self._run
        images, labels, masks = run(images, keys, labels, masks, bool(training))
        if single:
            images, labels, masks = (None if value is None else value[0] for value in (images, labels, masks))
        results = tuple(value for value in (images, labels, masks) if value is not None)
        return results if len(results) > 1 else images

    def __repr__(self):
        return f"Augment({self.operations}, value_range={self.value_range}, fuse={self.fuse})"

    def get_config(self):
        return {"operations": self.operations, "value_range": self.value_range, "fuse": self.fuse}

    @classmethod
    def from_config(cls, config):
        # Keras serializes what is inside a config, and leaves it to the class to bring it back.
        return cls(**{
            name: keras.saving.deserialize_keras_object(value) if isinstance(value, (dict, list)) else value
            for name, value in config.items()
        })  # fmt: skip

    @property
    def moves(self):
        """True if some operation moves pixels."""
        return any(isinstance(operation, Geometric) for operation in self.operations)

    @property
    def exact(self):
        """True if pixels are only mirrored and shifted by whole pixels, which copies."""
        return all(operation.exact for operation in self.operations if isinstance(operation, Geometric))

    def matrices(self, keys, height, width):
        """Returns where the pixels of augmented images lie in the images: `(batch, 3, 3)`, as `Views.matrices` does.

        `None` where there is no such map: a crop that is smaller than the image, or a lens's distortion.

        Args:
            keys: The keys, `(batch,)`, that the images were augmented by.
            height, width: The images' size.
        """
        moving = [(index, one) for index, one in enumerate(self.operations) if isinstance(one, Geometric)]
        if not all(operation.invertible for _, operation in moving):
            return None
        matrices = tf.eye(3, batch_shape=[tf.size(keys)])
        for index, operation in moving:
            matrices = matrices @ operation.matrix(self.draws(keys, index), height, width)
        return matrices

    def views(self, num_views, seed=0):
        """Returns these augmentations as test-time views: see `kregkit.data.RandomViews`."""
        from kregkit.data.views import RandomViews

        return RandomViews(self, num_views, seed)

    def _ready(self, images, key):
        images = tf.convert_to_tensor(images)
        single = images.shape.rank == 3
        if images.shape.rank not in (3, 4):
            raise ValueError(
                "`images` must be `(batch, h, w, channels)` or `(h, w, channels)`. "
                f"Received: shape={tuple(images.shape)}"
            )
        if images.dtype != tf.uint8 and not images.dtype.is_floating:
            raise ValueError(f"`images` must be uint8 or floating. Received: dtype={images.dtype.name}")
        if images.shape[-1] is None:
            raise ValueError(f"`images` must have a known number of channels. Received: shape={tuple(images.shape)}")
        key = tf.cast(tf.convert_to_tensor(key), tf.int64)
        if key.shape.rank not in (0, 1) or (single and key.shape.rank == 1 and key.shape[0] != 1):
            raise ValueError(f"`key` must be an integer, or one per image. Received: shape={tuple(key.shape)}")
        images = images[None] if single else images
        if key.shape.rank == 1:
            if None not in (key.shape[0], images.shape[0]) and key.shape[0] != images.shape[0]:
                raise ValueError(f"`key` must hold one key per image, {images.shape[0]}. Received: shape={key.shape}")
            keys = key
        else:
            keys = key[None] if single else tf.bitcast(
                _random.fold(tf.bitcast(key, tf.uint64), tf.range(tf.shape(images, tf.int64)[0])), tf.int64
            )  # fmt: skip
        return images, key, keys, single

    def _compiled(self, *values):
        """Returns the graph that eager calls share: one for each size of image, and for any number of images."""
        shapes = tuple(None if value is None else (value.shape.rank, *value.shape[1:]) for value in values)
        if shapes not in self._functions:
            self._functions[shapes] = tf.function(self._python, autograph=False, reduce_retracing=True)
        return self._functions[shapes]

    def _run(self, images, keys, labels, masks, training):
        images, masks = self.transform(images, keys, masks, training)
        if self.mixes and training:
            partner = self.partners(keys)
            if labels is None:
                raise ValueError("`MixUp` and `CutMix` need labels. Received: labels=None")
            images, labels = self.mix(
                images, keys, labels, tf.gather(images, partner), tf.gather(labels, partner)
            )  # fmt: skip
        elif labels is not None:
            labels = self.one_hot(labels)
        return images, labels, masks

    def one_hot(self, labels):
        """Returns labels in the form that the mixing operations give them, or as they are where there are none."""
        for operation in self.operations:
            if isinstance(operation, Mixing):
                labels = operation.one_hot(labels)
        return labels

    def partners(self, keys):
        """Returns each example's partner: the next one in an order drawn by key, never itself in a batch of two."""
        order = tf.argsort(_random.uniform(keys, "partner", 1)[:, 0], stable=True)
        return tf.gather(order, (tf.argsort(order) + 1) % tf.size(order))

    def draws(self, keys, index):
        """Returns the uniform numbers of the operation at a place, `(batch, num_draws)`."""
        return _random.uniform(keys, self._names[index], self.operations[index].num_draws)

    def mix(self, images, keys, labels, other_images, other_labels):
        """Applies the mixing operations to transformed examples and partners."""
        labels, other_labels = self.one_hot(labels), self.one_hot(other_labels)
        for index, operation in enumerate(self.operations):
            if isinstance(operation, Mixing):
                images, labels = operation.mix(images, labels, other_images, other_labels, self.draws(keys, index))
        return images, labels

    def transform(self, images, keys, masks=None, training=True):
        """Applies all operations but the mixing ones to a batch. Returns float32 images in the range, and masks."""
        if masks is not None:
            self._check_masks(images, masks)
        low, high = self.value_range
        for run in self._runs(training):
            first = self.operations[run[0]]
            if isinstance(first, Geometric):
                images, masks = self._move(images, keys, masks, run, training)
            elif isinstance(first, Color):
                images = self._recolor(images, keys, run)
            else:
                images = self._in_range(images)
                if isinstance(first, Standardize):
                    images = first.apply(images, low, high)
                else:
                    images = first.apply(images, self.draws(keys, run[0]))
        return self._in_range(images), masks

    def _check_masks(self, images, masks):
        if self.mixes:
            raise ValueError(f"`MixUp` and `CutMix` can't mix masks. Received: operations={self.operations}")
        if masks.shape.rank not in (3, 4) or (
            None not in (*masks.shape[1:3], *images.shape[1:3]) and masks.shape[1:3] != images.shape[1:3]
        ):
            raise ValueError(
                f"`masks` must be `(batch, h, w)` or `(batch, h, w, channels)`, of the images' size "
                f"{tuple(images.shape[1:3])}. Received: shape={tuple(masks.shape)}"
            )

    def _runs(self, training):
        """Returns lists of places of operations that fuse with each other."""
        runs = []
        for index, operation in enumerate(self.operations):
            resizes = isinstance(operation, Geometric) and getattr(operation, "changes_size", False)
            if isinstance(operation, Mixing) or not (training or resizes or not operation.random):
                continue
            last = self.operations[runs[-1][-1]] if runs else None
            both_geometric = isinstance(operation, Geometric) and isinstance(last, Geometric)
            if both_geometric:
                fills = {self.operations[i].fill for i in (*runs[-1], index)} - {None}
                # A crop that pads shows zeros outside, which fuses with a constant fill only.
                pads = any(self.operations[i].margin for i in (*runs[-1], index))
                fits = len(fills | ({"constant"} if pads else set())) <= 1
            else:
                fits = isinstance(operation, Color) and isinstance(last, Color)
            if self.fuse and fits:
                runs[-1].append(index)
            else:
                runs.append([index])
        return runs

    def _move(self, images, keys, masks, run, training):
        operations = [self.operations[index] for index in run]
        height, width = _warp.sizes(images)
        batch = tf.shape(images)[0]
        exact = all(operation.exact for operation in operations)
        whole_numbers = images.dtype == tf.uint8
        # Zeros outside mean black, which is the range's lower end; the mean, after `Standardize`.
        standardized = any(isinstance(one, Standardize) for one in self.operations[: run[0]])
        black = 0.0 if whole_numbers or standardized else self.value_range[0]
        moves, steps = None, []
        for operation, index in zip(operations, run):
            out_height, out_width = operation.output_size(height, width)
            if exact:
                move = (
                    operation.move(self.draws(keys, index), height, width)
                    if training
                    else operation.central(batch, height, width)
                )
                if moves is not None:
                    middles, ends = (height, width), (out_height, out_width)
                    move = tuple(_warp.compose_moves(*args) for args in zip(moves, move, middles, ends))
                moves = move
            elif training:
                steps += operation.steps(self.draws(keys, index), height, width)
            elif operation.exact:
                steps += _central_steps(operation, batch, height, width)
            else:
                steps += operation.central_steps(batch, height, width)
            height, width = out_height, out_width
        if exact:
            margin = sum(operation.margin for operation in operations)
            # Composed crops can look past the padding of the first one: the second's own padding lies there.
            images = _warp.copy(images, moves, height, width, margin, black)
            return images, None if masks is None else _warp.copy(masks, moves, height, width, margin)
        if not whole_numbers:
            images = tf.cast(images, tf.float32)
        fill = next((operation.fill for operation in operations if operation.fill is not None), "constant")
        images = images - black if black else images
        images, masks = _warp.warp(images, steps, height, width, fill, masks)
        images = images + black if black else images
        if whole_numbers:
            images = self._scaled(images)
        return images, masks

    def _scaled(self, images):
        low, high = self.value_range
        images = images * ((high - low) / 255)
        return images + low if low else images

    def _in_range(self, images):
        if images.dtype == tf.uint8:
            return self._scaled(tf.cast(images, tf.float32))
        return tf.cast(images, tf.float32)

    def _recolor(self, images, keys, run):
        low, high = self.value_range
        channels = images.shape[-1]
        # To [0, 1] units and back, by the same matrix and offset.
        scale, shift = (1 / 255, 0.0) if images.dtype == tf.uint8 else (1 / (high - low), -low / (high - low))
        means = []

        def source_mean():
            if not means:
                means.append(_mean(images) * scale + shift)
            return means[0]

        batch = tf.shape(images)[0]
        matrix = tf.tile(tf.eye(channels)[None], (batch, 1, 1))
        offset = tf.zeros((batch, channels))
        for index in run:

            def mean(matrix=matrix, offset=offset):
                return tf.linalg.matvec(matrix, source_mean(), transpose_a=True) + offset

            factor, added = self.operations[index].transform(self.draws(keys, index), channels, mean)
            if factor is not None:
                matrix, offset = matrix @ factor, tf.linalg.matvec(factor, offset, transpose_a=True)
            offset = offset + added
        offset = (offset + shift * tf.reduce_sum(matrix, 1)) * (high - low) + low
        matrix = matrix * (scale * (high - low))

        def paint(images, matrix, offset):
            images = tf.cast(images, tf.float32)
            result = offset[:, None, None]
            for channel in range(channels):
                result = result + images[..., channel : channel + 1] * matrix[:, None, None, channel]
            return tf.clip_by_value(result, low, high)

        return _warp.compiled(paint, images)(images, matrix, offset)


def _central_steps(operation, batch, height, width):
    moves = operation.central(batch, height, width)
    steps = []
    for (_, shift), size, out in zip(moves, (height, width), operation.output_size(height, width)):
        steps.append(tf.cast(shift, tf.float32) + tf.cast(out - size, tf.float32) / 2)
    return [("affine", _warp.affine(1.0, 0.0, steps[1], 0.0, 1.0, steps[0]))]


def _mean(images):
    """Returns each image's mean colour, `(batch, channels)`, in its own units."""
    height, width = _warp.sizes(images)
    channels = images.shape[-1]
    if images.dtype == tf.uint8:
        # Exact sums of integers. Whole rows are added to each other first, which XLA vectorises.
        def sums(images):
            rows = tf.reshape(images, (-1, height, width * channels))
            groups = [tf.cast(rows[:, start::8], tf.int32) for start in range(8)]
            few = tf.add_n([group[:, : height // 8] for group in groups])
            rest = tf.cast(rows[:, height // 8 * 8 :], tf.int32)
            rows = tf.reduce_sum(few, 1) + tf.reduce_sum(rest, 1)
            return tf.cast(tf.reduce_sum(tf.reshape(rows, (-1, width, channels)), 1), tf.float32)

        total = _warp.compiled(sums, images)(images)
    else:
        rows = tf.ones((1, height)) @ tf.reshape(tf.cast(images, tf.float32), (-1, height, width * channels))
        total = tf.reduce_sum(tf.reshape(rows, (-1, width, channels)), 1)
    return total / tf.cast(height * width, tf.float32)


def keys_from_pair(pair, batch):
    """Returns keys for a batch from the two numbers of a Keras seed generator."""
    key = _random.fold(_random.fold(tf.constant(np.uint64(0)), pair[0]), pair[1])
    return tf.bitcast(_random.fold(key, tf.range(tf.cast(batch, tf.int64))), tf.int64)
