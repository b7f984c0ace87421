"""Several versions of one input."""

import keras
import tensorflow as tf


def as_views(views):
    """Returns a function from a batch of inputs to a list of structures with leaves `(views, batch, ...)`.

    Args:
        views: Callable from images `(batch, height, width, channels)` to a tensor `(views, batch, ...)`, or to a list
            of tensors `(batch, ...)`, of one shape or several. Of several inputs, the only one with the rank of a batch
            of images is the one that is viewed; a dictionary from an input's name to a callable says which otherwise.
    """

    def run(inputs):
        leaves = keras.tree.flatten(inputs)
        if isinstance(views, dict):
            (name, view), *others = views.items()
            if others or not isinstance(inputs, dict) or name not in inputs:
                raise ValueError(f"`views` must name one input of the model. Received: views={sorted(views)}")
            place = [leaf is inputs[name] for leaf in leaves].index(True)
        else:
            images = [index for index, leaf in enumerate(leaves) if leaf.shape.rank == 4]
            if len(images) != 1 and len(leaves) > 1:
                raise ValueError(
                    f"Views need one input of images, and the model has {len(images)} of {len(leaves)} inputs. Pass a "
                    "dictionary from an input's name to its views"
                )
            place, view = (images or [0])[0], views
        found = []
        for group in _groups(view(leaves[place])):
            number = group.shape[0]
            viewed = [
                group if index == place else tf.tile(leaf[tf.newaxis], [number] + [1] * leaf.shape.rank)
                for index, leaf in enumerate(leaves)
            ]
            found.append(keras.tree.pack_sequence_as(inputs, viewed))
        return found

    return run


def _groups(viewed):
    """Returns tensors `(views, batch, ...)`, one per shape, in the order in which the shapes appear."""
    if not isinstance(viewed, (list, tuple)):
        if viewed.shape[0] is None:
            raise ValueError("The number of views must be known: views of shape (views, batch, ...)")
        return [viewed]
    by_shape = {}
    for tensor in viewed:
        by_shape.setdefault(tuple(tensor.shape[1:]), []).append(tensor)
    return [tf.stack(group) for group in by_shape.values()]
