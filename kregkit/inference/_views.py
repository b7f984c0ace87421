"""Several versions of one input."""

import inspect

import keras
import tensorflow as tf

from kregkit import data
from kregkit.data import Augment, RandomViews, Views, make_keys


class InputViews:
    """Versions of a batch of inputs, made for the draws of one pass.

    Args:
        views: `kregkit.data.Views`, which give a fixed number of versions; `kregkit.data.Augment`, which gives a new
            one for each draw; a callable from a batch of images to `(views, batch, ...)` or to a list of batches; or a
            dictionary from one input's name to any of these.
        seed: Integer, for `Augment`.
    """

    def __init__(self, views, seed):
        self.name = None
        if isinstance(views, dict):
            (self.name, views), *others = views.items()
            if others:
                raise ValueError(f"`views` must name one input of the model. Received: views={[self.name, *others]}")
        if not callable(views):
            raise ValueError(f"`views` must be callable, or a dictionary of one callable. Received: views={views!r}")
        self.views, self.seed = views, seed
        self.augment = None
        if isinstance(views, Augment):
            self.augment = views
        elif isinstance(views, RandomViews):
            self.augment, self.seed = views.augment, views.seed
        if self.augment is not None and self.augment.mixes:
            raise ValueError(f"`views` must not mix examples, as MixUp and CutMix do. Received: views={views!r}")

    @property
    def endless(self):
        """Whether every draw has a version of its own."""
        return isinstance(self.views, Augment)

    def groups(self, inputs, model):
        """Returns the versions' makers, one per shape: `(number, make)`, where `make(samples, start)` gives the folded
        inputs of these draws, whose versions take turns."""
        leaves = keras.tree.flatten(inputs)
        place = self._place(inputs, leaves)

        def folded(image, k):
            """Returns inputs whose image is `image`, `(k * batch, ...)`, and the others repeated."""
            return keras.tree.pack_sequence_as(
                inputs,
                [image if index == place else repeated(leaf, k) for index, leaf in enumerate(leaves)],
            )

        if self.augment is not None:
            number = 1 if self.endless else self.views.num_views

            def make(samples, start):
                k = samples.shape[0]
                rows = tf.shape(leaves[place], out_type="int64")[0]
                view = samples if self.endless else samples % number
                keys = make_keys(self.seed, view[:, None], start + tf.range(rows)[None])
                return folded(self.augment(repeated(leaves[place], k), tf.reshape(keys, [-1])), k)

            return [(number, make)]
        viewed = self.views.each(leaves[place]) if isinstance(self.views, Views) else self.views(leaves[place])
        found = []
        for group in _by_shape(viewed):
            _check_size(model, inputs, place, group)

            def make(samples, start, group=group):
                k = samples.shape[0]
                chosen = tf.gather(group, tf.cast(samples % group.shape[0], "int32"))
                return folded(tf.reshape(chosen, tf.concat([[-1], tf.shape(group)[2:]], 0)), k)

            found.append((group.shape[0], make))
        return found

    def _place(self, inputs, leaves):
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
        return {"name": self.name, "seed": self.seed, "views": _serialized(self.views)}

    @classmethod
    def from_config(cls, config):
        views = _deserialized(config["views"])
        return cls(views if config["name"] is None else {config["name"]: views}, config["seed"])


def repeated(x, k):
    """Returns `k` copies of a batch, one after the other."""
    return x if k == 1 else tf.tile(x, [k] + [1] * (x.shape.rank - 1))


def _by_shape(viewed):
    """Returns tensors `(views, batch, ...)`, one per shape, in the order in which the shapes appear."""
    if not isinstance(viewed, (list, tuple)):
        if viewed.shape[0] is None:
            raise ValueError("The number of views must be known: views of shape (views, batch, ...)")
        return [viewed]
    by_shape = {}
    for tensor in viewed:
        by_shape.setdefault(tuple(tensor.shape[1:]), []).append(tensor)
    return [tf.stack(group) for group in by_shape.values()]


def _check_size(model, inputs, place, group):
    tensors = keras.tree.flatten(getattr(model, "inputs", None) or [])
    # A model made of a list of inputs finds those of a dictionary by name.
    named = {tensor.name: tensor for tensor in tensors}
    taken = named.get(sorted(inputs)[place]) if isinstance(inputs, dict) else None
    if taken is None and len(tensors) > place:
        taken = tensors[place]
    if taken is None:
        return
    wanted, found = taken.shape[1:], tuple(group.shape[2:])
    if len(wanted) != len(found) or any(None not in (a, b) and a != b for a, b in zip(wanted, found)):
        raise ValueError(
            f"The model takes inputs of shape {tuple(wanted)} only, and a view has shape {found}. Whole images at "
            "several sizes need a model that accepts any size; for this one, cut crops of its size, such as "
            f"MultiScale(sizes, crops=TenCrop({wanted[0]}))"
        )


def _serialized(views):
    if getattr(data, type(views).__name__, None) is type(views) and isinstance(views, (Views, Augment)):
        # They store each argument under its own name.
        names = list(inspect.signature(type(views).__init__).parameters)[1:]
        return {"views": type(views).__name__, "arguments": {name: _serialized(getattr(views, name)) for name in names}}
    if isinstance(views, (list, tuple)):
        return [_serialized(one) for one in views]
    return views if isinstance(views, (int, float, str, type(None))) else keras.saving.serialize_keras_object(views)


def _deserialized(config):
    if isinstance(config, list):
        return [_deserialized(one) for one in config]
    if isinstance(config, dict) and "views" in config:
        return getattr(data, config["views"])(**{name: _deserialized(v) for name, v in config["arguments"].items()})
    return keras.saving.deserialize_keras_object(config) if isinstance(config, dict) else config
