"""Where in an element the images, labels, masks, boxes and points are; none must stay behind when images move."""

import re

import tensorflow as tf

from kregkit.data import _annotations, _warp
from kregkit.data.annotations import Boxes, Points, described, label_keys

_BOXES = re.compile(r"(^|_)(b?box(es)?|bbox(es)?|rects?|rectangles?|rois?|xyxy|yxyx|xywh)(_|\d|$)", re.I)
_POINTS = re.compile(
    r"(^|_)((key)?points?|k?pts|kps|landmarks?|poly(gon)?s?|corners?|joints?|contours?|coords?|coordinates?|vertices)"
    r"(_|\d|$)",
    re.I,
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
        boxes, points: Keys, `Boxes`, `Points`, or `None`.
    """

    def __init__(
        self, spec, image, label, masks, augment, training=True, unmoved=(), first=None, boxes=None, points=None
    ):
        self.augment, self.training = augment, training
        self.boxes, self.points = described("boxes", boxes, Boxes), described("points", points, Points)
        self.box_path, self.row_paths, self.point_path, self.instance = None, [], None, None
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
            if self.boxes is not None or self.points is not None:
                raise ValueError(
                    "`boxes` and `points` move along with images, of which there are none. "
                    f"Received: boxes={boxes!r}, points={points!r}"
                )
            return
        self._find_annotations(spec)
        if get(spec, self.image).shape[-1] is None and augment.operations:
            raise ValueError(
                "Images must have a known number of channels: set `channels=1` or `channels=3`. "
                f"Received: shape={get(spec, self.image).shape}"
            )
        if augment.mixes:
            self.labels = self._find_labels(spec, label)
            if self.masks is not None:
                raise ValueError(f"`MixUp` and `CutMix` can't mix masks. Received: masks={masks!r}")
        self._check_unmoved(spec if first is None else first, unmoved)

    def _find_image(self, spec, name):
        path = image_path(spec, name)
        entry = None if path is None else get(spec, path)
        shape = getattr(entry, "shape", None)
        if isinstance(shape, tf.TensorShape) and shape.rank is None:
            return self._check_unknown_shape(entry, name in path)
        rank = getattr(shape, "rank", None)
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

    def _check_unknown_shape(self, entry, named):
        """Raises an error where an entry is an image for all that is known; bytes would stay in 0..255 unnoticed."""
        image = entry.dtype == tf.uint8 or (entry.dtype.is_floating and self.augment.operations)
        if image or (named and _is_number(entry.dtype)):
            raise ValueError(
                "The shape of the images isn't known, as behind tf.py_function and tf.numpy_function: say it in a "
                "`ds.map`, such as image = tf.ensure_shape(image, (None, None, 3)). Say image=None if these are no "
                f"images. Received: shape={entry.shape}, dtype={entry.dtype.name}"
            )

    def _find_labels(self, spec, label):
        """Returns the path of what is mixed along with images; `None` where boxes or points are all that there is."""
        taken = (self.box_path, self.point_path, *self.row_paths)
        if isinstance(spec, (tuple, list)) and len(spec) > 1 and not isinstance(spec[1], dict):
            return None if (1,) in taken else (1,)
        try:
            path = self._find(spec, label, "label")
        except ValueError:
            if self.boxes is None and self.points is None:
                raise
            return None
        return None if path in taken else path

    def _find_annotations(self, spec):
        if self.boxes is not None:
            self.box_path = find_leaf(spec, self.boxes.key, "boxes")
            shape = get(spec, self.box_path).shape
            if shape.rank != 2 or shape[-1] != 4:
                raise ValueError(f"`boxes` must be `(num, 4)` in each example. Received: shape={shape}")
            self.row_paths = [find_leaf(spec, key, "labels") for key in label_keys(self.boxes)]
            for path in self.row_paths:
                row = get(spec, path)
                if row.shape.rank in (None, 0) or (None not in (row.shape[0], shape[0]) and row.shape[0] != shape[0]):
                    raise ValueError(
                        f"`labels` of boxes must have a row for each of the {shape[0]} boxes. Received: "
                        f"shape={row.shape} of {_named(path)!r}"
                    )
                if row.dtype.is_unsigned:
                    raise ValueError(
                        "`labels` of boxes become -1 where a box is dropped: cast them to int32. "
                        f"Received: dtype={row.dtype.name} of {_named(path)!r}"
                    )
        if self.points is not None:
            self.point_path = find_leaf(spec, self.points.key, "points")
            shape = get(spec, self.point_path).shape
            if shape.rank not in (2, 3) or shape[-1] not in (2, 3):
                raise ValueError(
                    "`points` must be `(num, 2 or 3)`, or `(instances, num, 2 or 3)`, in each example. "
                    f"Received: shape={shape}"
                )
            self.instance = shape[1] if shape.rank == 3 else None
            self.point_numbers = shape[-1]

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
            declared = (self.image, self.masks, self.labels, self.box_path, self.point_path, *self.row_paths)
            known = path in declared or any(step in unmoved for step in path)
            if known or not _is_number(leaf.dtype) or leaf.shape.rank is None:
                continue
            kind = _kind(path, leaf.shape, leaf.dtype, size)
            if kind is not None:
                raise ValueError(
                    f"The entry {_named(path)!r} looks like {kind}, which would stay where they are while the "
                    f"operations move the image: {_line(path, leaf, kind)}, or say "
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
        """Applies all operations but the mixing ones to a batch. Boxes and points come as `Annotations` hold them."""
        if self.image is None:
            return element
        masks = None if self.masks is None else get(element, self.masks)
        images = get(element, self.image)
        annotations = self.augment.move(self._read(element), keys, images, self.training)
        images, masks = self.augment.transform(images, keys, masks, self.training)
        element = put(element, self.image, images)
        element = element if annotations is None else self._put(element, annotations)
        return element if masks is None else put(element, self.masks, masks)

    def mix(self, element, keys, other=None):
        """Mixes a transformed batch with another one, or with itself; at test time labels only take that form.

        Boxes and points take the form in which they go out.
        """
        annotations = self._held(element)
        if self.labels is None and annotations is None:
            return element
        images = get(element, self.image)
        labels = None if self.labels is None else get(element, self.labels)
        others = other_annotations = None
        if other is not None:
            other_labels = None if self.labels is None else get(other, self.labels)
            others, other_annotations = (get(other, self.image), other_labels), self._held(other)
        if self.training:
            annotations = self.augment.mix_annotations(annotations, keys, images, other_annotations)
        images, labels = self.augment.mix(images, labels, keys, others, self.training)
        element = put(element, self.image, images)
        element = element if labels is None else put(element, self.labels, labels)
        return element if annotations is None else self._write(element, annotations, _warp.sizes(images))

    def ragged_paths(self, spec):
        """Returns the paths of boxes and points of which examples have different numbers."""
        return [path for path in self._annotation_paths() if get(spec, path).shape[0] is None]

    def moves_images_alone(self):
        """Returns whether examples have no masks, boxes or points."""
        return self.masks is None and not self._annotation_paths()

    def _annotation_paths(self):
        return [path for path in (self.box_path, *self.row_paths, self.point_path) if path is not None]

    def _read(self, element):
        """Returns the `Annotations` of a batch as it came, or `None`."""
        if not self._annotation_paths():
            return None
        boxes = None if self.box_path is None else get(element, self.box_path)
        points = None if self.point_path is None else get(element, self.point_path)
        return _annotations.read(
            boxes,
            [get(element, path) for path in self.row_paths],
            None if self.boxes is None else self.boxes.format,
            points,
            None if self.points is None else self.points.format,
            _warp.sizes(get(element, self.image)),
        )

    def _held(self, element):
        """Returns the `Annotations` that a transformed batch holds, or `None`."""
        if not self._annotation_paths():
            return None
        return _annotations.Annotations(
            None if self.box_path is None else get(element, self.box_path),
            [get(element, path) for path in self.row_paths],
            None if self.point_path is None else get(element, self.point_path),
        )

    def _put(self, element, annotations):
        values = [*([] if annotations.boxes is None else [annotations.boxes]), *annotations.rows]
        values += [] if annotations.points is None else [annotations.points]
        for path, value in zip(self._annotation_paths(), values):
            element = put(element, path, value)
        return element

    def _write(self, element, annotations, size):
        if annotations.boxes is not None:
            boxes, rows = _annotations.write_boxes(annotations, self.boxes, size)
            annotations = annotations._replace(boxes=boxes, rows=rows)
        if annotations.points is not None:
            points = _annotations.write_points(annotations, self.points.format, size, self.instance, self.point_numbers)
            annotations = annotations._replace(points=points)
        return self._put(element, annotations)


def check_single(spec, image):
    """Raises an error if examples of this structure look like batches."""
    leaves = [leaf for _, leaf in _leaves(spec)]
    ranks = [leaf.shape.rank for leaf in leaves]
    if image is None or not ranks or None in ranks or 0 in ranks or len({leaf.shape[0] for leaf in leaves}) > 1:
        return
    path = image_path(spec, image)
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


def image_path(spec, name):
    if isinstance(spec, dict):
        return (name,) if name in spec else None
    if isinstance(spec, (tuple, list)):
        inner = image_path(spec[0], name) if spec else None
        return None if inner is None else (0, *inner)
    return ()


def _leaves(spec, path=()):
    """Yields `(path, spec)` of all tensors."""
    if isinstance(spec, (dict, tuple, list)):
        for step, part in spec.items() if isinstance(spec, dict) else enumerate(spec):
            yield from _leaves(part, (*path, step))
    elif isinstance(spec, tf.TensorSpec):
        yield path, spec


def find_leaf(spec, key, argument):
    """Returns the path of a tensor from a key, a path such as "objects/bbox", or an integer for an entry of a tuple."""
    paths = [path for path, _ in _leaves(spec)]
    found = [path for path in paths if path == (key,) or _named(path) == key]
    found = found or [path for path in paths if path and path[-1] == key and isinstance(key, str)]
    if len(found) != 1:
        several = (
            f" {len(found)} of them have it: say which by its path, such as {_named(found[0])!r}." if found else ""
        )
        if not found and any(isinstance(leaf, tf.RaggedTensorSpec) for leaf in tf.nest.flatten(spec)):
            several = " Ragged entries are plain ones after a `ds.map` in which `value.to_tensor()` makes them so."
        raise ValueError(f"`{argument}` must be a key of the examples, {spec}.{several} Received: {argument}={key!r}")
    return found[0]


def _named(path):
    return path[-1] if len(path) == 1 else "/".join(map(str, path))


def _line(path, leaf, kind):
    """Returns what to write so that an entry moves along."""
    key = path[0] if len(path) == 1 else _named(path)
    if kind == "masks":
        return f"give segmentation masks as masks={path[-1]!r}"
    shape = leaf.shape
    if shape.rank == 2 and shape[-1] == 4:
        return (
            f"write boxes={key!r} if they are left, top, right, bottom in pixels, else say how they are written, such "
            f"as boxes=data.Boxes({key!r}, format='rel_yxyx') for TFDS's"
        )
    if shape.rank in (2, 3) and shape[-1] in (2, 3):
        return (
            f"write points={key!r} if they are x, y in pixels, else say how they are written, such as "
            f"points=data.Points({key!r}, format='rel_xy')"
        )
    last = path[-1]
    if any(isinstance(step, str) and _BOXES.search(_words(step)) for step in path):
        return (
            f"bring boxes to the shape (num, 4) in a `ds.map` and write boxes={last!r}; what belongs to them goes with "
            f"them by boxes=data.Boxes(..., labels={key!r})"
        )
    return f"stack points to the shape (num, 2) in a `ds.map` and write points={last!r}"


def _words(name):
    """Returns a name with its words set apart by `_`, such as `gt_Boxes` for `gtBoxes` and for `gt/Boxes`."""
    return re.sub(r"[^0-9A-Za-z]+|(?<=[a-z0-9])(?=[A-Z])", "_", name)


def _is_number(dtype):
    return dtype.is_integer or dtype.is_floating or dtype == tf.bool


def _kind(path, shape, dtype, size):
    """Returns what an entry looks like if it holds positions in the image, such as `"boxes"`, else `None`."""
    names = [_words(step) for step in path if isinstance(step, str)]
    if any(_POINTS.search(name) or _BOXES.search(name) for name in names) and (shape.rank or len(names) > 1):
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
