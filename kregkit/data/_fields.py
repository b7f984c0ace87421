"""Where in an element the images, labels and masks are."""

import tensorflow as tf


class Fields:
    """Finds images, labels and masks in the structure of a source's examples, and applies an `Augment` to them.

    Args:
        spec: The structure of one example.
        image, label: Keys of dictionaries.
        masks: Key of the masks, an integer for an entry of a tuple, or `None`.
        augment: The `Augment`.
    """

    def __init__(self, spec, image, label, masks, augment):
        self.augment = augment
        self.labels = None
        self.image = self._find_image(spec, image)
        self.masks = None if masks is None else self._find(spec, masks, "masks")
        if self.image is None:
            if augment.operations:
                raise ValueError(
                    "`operations` need images `(h, w, channels)` as the first entry or under the key `image`. "
                    f"Received: examples of {spec}"
                )
            if masks is not None:
                raise ValueError(f"`masks` move along with images, of which there are none. Received: masks={masks!r}")
            return
        if get(spec, self.image).shape[-1] is None and augment.operations:
            raise ValueError(
                "Images must have a known number of channels: set `channels=1` or `channels=3`. "
                f"Received: shape={get(spec, self.image).shape}"
            )
        if augment.mixes:
            if isinstance(spec, (tuple, list)) and len(spec) > 1 and not isinstance(spec[1], dict):
                self.labels = (1,)
            else:
                self.labels = self._find(spec, label, "label")
            if self.masks is not None:
                raise ValueError(f"`MixUp` and `CutMix` can't mix masks. Received: masks={masks!r}")

    def _find_image(self, spec, name):
        if isinstance(spec, dict):
            path = (name,) if name in spec else None
        elif isinstance(spec, (tuple, list)):
            inner = self._find_image(spec[0], name)
            path = None if inner is None else (0, *inner)
        else:
            path = ()
        if path is None:
            return None
        found = get(spec, path)
        is_image = getattr(found, "shape", None) is not None and found.shape.rank == 3
        return path if is_image and (found.dtype == tf.uint8 or found.dtype.is_floating) else None

    def _find(self, spec, name, what):
        if isinstance(spec, dict) and name in spec:
            return (name,)
        if isinstance(spec, (tuple, list)):
            if isinstance(name, int) and 0 <= name < len(spec):
                return (name,)
            for place, part in enumerate(spec):
                if isinstance(part, dict) and name in part:
                    return (place, name)
        raise ValueError(f"`{what}` must be a key of the examples, {spec}. Received: {what}={name!r}")

    def transform(self, element, keys, training):
        """Applies all operations but the mixing ones to a batch."""
        if self.image is None:
            return element
        masks = None if self.masks is None else get(element, self.masks)
        images, masks = self.augment.transform(get(element, self.image), keys, masks, training)
        element = put(element, self.image, images)
        return element if masks is None else put(element, self.masks, masks)

    def mix(self, element, keys, other=None, training=True):
        """Mixes a transformed batch with another one, or with itself; at test time labels only take that form."""
        if self.labels is None:
            return element
        others = None if other is None else (get(other, self.image), get(other, self.labels))
        images, labels = self.augment.mix(
            get(element, self.image), get(element, self.labels), keys, others, training
        )  # fmt: skip
        return put(put(element, self.image, images), self.labels, labels)


def get(element, path):
    for step in path:
        element = element[step]
    return element


def put(element, path, value):
    """Returns a copy of the structure with one entry replaced."""
    if not path:
        return value
    inner = put(element[path[0]], path[1:], value)
    if isinstance(element, dict):
        return {**element, path[0]: inner}
    parts = list(element)
    parts[path[0]] = inner
    return type(element)(*parts) if hasattr(element, "_fields") else type(element)(parts)
