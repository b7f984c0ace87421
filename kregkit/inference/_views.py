"""Several versions of one input, made for the draws of a pass."""

import dataclasses
import types
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from kregkit._core.checks import check_choice, shown
from kregkit._core.graph import reads_channels_first
from kregkit.data import Augment, RandomViews, ViewProduct, Views, make_keys
from kregkit.inference._layouts import LAYOUTS


class InputViews:
    """Versions of a batch of inputs, made for the draws of one pass.

    Args:
        views: `kregkit.data.Views`, which give a fixed number of versions; `kregkit.data.Augment`, which gives a new
            one for each draw; a callable from a batch of images to `(views, batch, ...)` or to a list of batches; a
            list of `Views`, for their product; or a dictionary from one input's name to any of these.
        seed: Integer, for `Augment`.
        layout: What the model's outputs say of an image, as in `marginalize`.
    """

    def __init__(self, views, seed, layout="auto"):
        self.name = None
        if isinstance(views, dict):
            (self.name, views), *others = views.items()
            if others:
                raise ValueError(f"`views` must name one input of the model. Received: views={[self.name, *others]}")
        if isinstance(views, (list, tuple)):
            views = ViewProduct(list(views))
        if not callable(views):
            raise ValueError(f"`views` must be callable, or a dictionary of one callable. Received: views={views!r}")
        for name in keras.tree.flatten(layout):
            check_choice("layout", name, LAYOUTS)
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
        self._check_channels(images, model)

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

    def _check_channels(self, images, model):
        # Views of the user's own may know better.
        own = type(self.views).__module__.partition(".")[0] != "kregkit"
        if images.shape.rank == 4 and not own and reads_channels_first(model):
            raise ValueError(
                "Views are made of images of shape (batch, height, width, channels), and the model's first layer takes "
                "the channels first. Put `keras.layers.Permute((3, 1, 2))` before it, in a model around this one, and "
                f"give it images with the channels last. Received: views={self.views!r}, model={model.name!r}"
            )

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
