"""Where in an element the images, labels and masks are; boxes and points must not stay behind when images move."""

import re

import tensorflow as tf

_POINTS = re.compile(
    r"(^|_)(b?box(es)?|bbox(es)?|(key)?points?|landmarks?|polygons?|corners?|joints?|contours?)(_|\d|$)", re.I
)
_MAPS = re.compile(r"(^|_)(masks?|segmentations?|segmaps?|depths?|heatmaps?|label_?maps?)(_|\d|$)", re.I)


class Fields:
    """Finds images, labels and masks in the structure of a source's examples, and applies an `Augment` to them.

    Args:
        spec: The structure of one example.
        image, label: Keys of dictionaries. `image=None` says that nothing is an image.
        masks: Key of the masks, an integer for an entry of a tuple, or `None`.
        augment: The `Augment`.
        training: Boolean.
        unmoved: Key or integer, or a list of them: entries that may stay as they are though they look like boxes,
            points or masks.
        first: The structure of the first example, where its shapes are better known than those of `spec`.
    """

    def __init__(self, spec, image, label, masks, augment, training=True, unmoved=(), first=None):
        self.augment, self.training = augment, training
        self.labels = None
        self.image = None if image is None else self._find_image(spec, image)
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
        self._check_unmoved(spec if first is None else first, unmoved)

    def _find_image(self, spec, name):
        path = _image_path(spec, name)
        entry = None if path is None else get(spec, path)
        rank = getattr(getattr(entry, "shape", None), "rank", None)
        if rank not in (2, 3):
            return None
        if rank == 3 and (entry.dtype == tf.uint8 or entry.dtype.is_floating):
            return path
        named = name in path
        passes = "Say image=None if these are no images."
        if rank == 3 and (named or (_is_number(entry.dtype) and entry.shape[-1] in (1, 3, 4, None))):
            low, high = self.augment.value_range
            raise ValueError(
                f"Images of type {entry.dtype.name} have no range that is known: cast them to uint8 if they are in "
                f"0..255, else to float32 and scale them to value_range=({low:g}, {high:g}), such as x / 65535 for "
                f"uint16. {passes} Received: dtype={entry.dtype.name}"
            )
        if rank == 2 and (named or entry.dtype == tf.uint8):
            raise ValueError(
                "Images must be `(h, w, channels)`: add a last axis to those of one channel, such as x[..., None]. "
                f"{passes} Received: shape={tuple(entry.shape)}, dtype={entry.dtype.name}"
            )
        return None

    def _find(self, spec, name, argument):
        if isinstance(spec, dict) and name in spec:
            return (name,)
        if isinstance(spec, (tuple, list)):
            if isinstance(name, int) and 0 <= name < len(spec):
                return (name,)
            for index, part in enumerate(spec):
                if isinstance(part, dict) and name in part:
                    return (index, name)
        raise ValueError(f"`{argument}` must be a key of the examples, {spec}. Received: {argument}={name!r}")

    def _check_unmoved(self, spec, unmoved):
        """Raises an error for boxes, points and masks that would stay where they are while the image moves."""
        unmoved = list(unmoved) if isinstance(unmoved, (list, tuple)) else [unmoved]
        steps = {step for path, _ in _leaves(spec) for step in path}
        if not all(isinstance(one, (str, int)) for one in unmoved) or not steps.issuperset(unmoved):
            raise ValueError(f"`unmoved` must be keys of the examples, {spec}. Received: unmoved={unmoved!r}")
        acting = [operation for operation in self.augment.operations if self.training or operation.changes_size]
        if not any(operation.moves_pixels or operation.mixes for operation in acting):
            return
        size = get(spec, self.image).shape[:2]
        for path, leaf in _leaves(spec):
            known = path in (self.image, self.masks, self.labels) or any(step in unmoved for step in path)
            if known or not _is_number(leaf.dtype) or leaf.shape.rank is None:
                continue
            kind = _kind(path, leaf.shape, leaf.dtype, size)
            if kind is not None:
                name = path[-1] if len(path) == 1 else "/".join(map(str, path))
                masks = f"give segmentation masks as masks={path[-1]!r}, " if kind == "masks" else ""
                raise ValueError(
                    f"The entry {name!r} looks like {kind}, which would stay where they are while the operations move "
                    f"the image: {masks}augment them together with the image in a `ds.map` of your own, or say "
                    f"unmoved={path[-1]!r} if they may stay. Received: shape={tuple(leaf.shape)}, "
                    f"operations={self.augment.operations}"
                )

    def check(self, element, name):
        """Raises an error, eagerly or in the graph, if a batch breaks a promise; `name` as for `Augment.check_images`.

        An error at the first batch is better than training on it.
        """
        if self.image is not None:
            self.augment.check_images(get(element, self.image), self.training, name, range_matters=True)
        if self.labels is not None:
            self.augment.check_labels(get(element, self.labels), name)

    def transform(self, element, keys):
        """Applies all operations but the mixing ones to a batch."""
        if self.image is None:
            return element
        masks = None if self.masks is None else get(element, self.masks)
        images, masks = self.augment.transform(get(element, self.image), keys, masks, self.training)
        element = put(element, self.image, images)
        return element if masks is None else put(element, self.masks, masks)

    def mix(self, element, keys, other=None):
        """Mixes a transformed batch with another one, or with itself; at test time labels only take that form."""
        if self.labels is None:
            return element
        others = None if other is None else (get(other, self.image), get(other, self.labels))
        images, labels = get(element, self.image), get(element, self.labels)
        images, labels = self.augment.mix(images, labels, keys, others, self.training)
        return put(put(element, self.image, images), self.labels, labels)


def check_single(spec, image):
    """Raises an error if examples of this structure look like batches."""
    leaves = [leaf for _, leaf in _leaves(spec)]
    ranks = [leaf.shape.rank for leaf in leaves]
    if image is None or not ranks or None in ranks or 0 in ranks or len({leaf.shape[0] for leaf in leaves}) > 1:
        return
    path = _image_path(spec, image)
    first = leaves[0] if path is None else get(spec, path)
    rank, shape = first.shape.rank, first.shape
    # Numbers of rows that aren't known are a batch's; but a photograph's size isn't known either.
    rows_unknown = shape[0] is None and len(leaves) > 1 and not (rank == 3 and shape[1] is None)
    if rank == 4 or rows_unknown:
        raise ValueError(
            "`source` must give single examples, and these look like batches: put `.unbatch()` behind the dataset. "
            "`pipeline` makes batches itself, after shuffling and augmenting. If a single example does have this "
            f"shape, say image=None. Received: examples of {spec}"
        )


def _image_path(spec, name):
    if isinstance(spec, dict):
        return (name,) if name in spec else None
    if isinstance(spec, (tuple, list)):
        inner = _image_path(spec[0], name) if spec else None
        return None if inner is None else (0, *inner)
    return ()


def _leaves(spec, path=()):
    """Yields `(path, spec)` of all tensors."""
    if isinstance(spec, (dict, tuple, list)):
        for step, part in spec.items() if isinstance(spec, dict) else enumerate(spec):
            yield from _leaves(part, (*path, step))
    elif isinstance(spec, tf.TensorSpec):
        yield path, spec


def _is_number(dtype):
    return dtype.is_integer or dtype.is_floating or dtype == tf.bool


def _kind(path, shape, dtype, size):
    """Returns what an entry looks like if it holds positions in the image, such as `"boxes"`, else `None`."""
    names = [step for step in path if isinstance(step, str)]
    if any(_POINTS.search(name) for name in names) and (shape.rank or len(names) > 1):
        return "boxes or points"
    if not names and shape.rank == 2 and shape[-1] == 4 and dtype.is_floating:
        return "boxes"
    if shape.rank in (2, 3) and (shape[:2].as_list() == size.as_list() or any(_MAPS.search(name) for name in names)):
        return "masks"
    return None


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
