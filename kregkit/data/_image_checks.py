"""What `Augment` is called with: images, keys and masks, checked and made a batch."""

import tensorflow as tf

from kregkit._core.checks import shown
from kregkit.data import _random
from kregkit.data._graph_checks import require, text


def as_batch(images, key):
    """Returns a batch of images, one key for each, and whether `images` was a single one."""
    images = tf.convert_to_tensor(images)
    single = images.shape.rank == 3
    if images.shape.rank not in (3, 4):
        raise ValueError(
            f"`images` must be `(batch, h, w, channels)` or `(h, w, channels)`. Received: shape={tuple(images.shape)}"
        )
    if images.dtype != tf.uint8 and not images.dtype.is_floating:
        raise ValueError(f"`images` must be uint8 or floating. Received: dtype={images.dtype.name}")
    if images.shape[-1] is None:
        raise ValueError(f"`images` must have a known number of channels. Received: shape={tuple(images.shape)}")
    key = tf.cast(tf.convert_to_tensor(key), tf.int64)
    if key.shape.rank not in (0, 1) or (single and key.shape.rank == 1 and key.shape[0] != 1):
        raise ValueError(f"`key` must be an integer, or one per image. Received: shape={tuple(key.shape)}")
    images = images[None] if single else images
    if key.shape.rank == 0:
        key = key[None] if single else _random.batch_keys(key, tf.shape(images)[0])
    elif None not in (key.shape[0], images.shape[0]) and key.shape[0] != images.shape[0]:
        raise ValueError(f"`key` must hold one key per image, {images.shape[0]}. Received: shape={key.shape}")
    return images, key, single


def name_in_batch(row):
    """Returns what an error calls an image, from its number in the batch."""
    return text("Image ", row, " of the batch")


def check_value_range(images, value_range, name):
    """Raises an error, eagerly or in the graph, if float images leave the range; `name` as for `check_images`."""
    low, high = value_range
    # Resizing by cubic interpolation goes a little beyond.
    slack = 0.1 * (high - low)
    good = tf.reduce_all((images >= low - slack) & (images <= high + slack), (1, 2, 3))

    def describe():
        row = tf.argmin(tf.cast(good, tf.int32))
        image = tf.cast(images[row], tf.float32)
        values = text("values from ", tf.reduce_min(image), " to ", tf.reduce_max(image))
        finite = tf.reduce_all(tf.math.is_finite(image))
        return text(
            name(row), f" must lie in value_range=({low:g}, {high:g}), as all float images: scale it "
            "before, or say what its range is, such as value_range=(0.0, 255.0) for what "
            "keras.utils.image_dataset_from_directory gives. Received: ",
            tf.where(finite, values, "NaN or infinite values"),
        )  # fmt: skip

    require(tf.reduce_all(good), describe)


def check_masks(images, masks):
    """Raises an error for masks that don't have the images' size."""
    if masks.shape.rank not in (3, 4) or (
        None not in (*masks.shape[1:3], *images.shape[1:3]) and masks.shape[1:3] != images.shape[1:3]
    ):
        raise ValueError(
            f"`masks` must be `(batch, h, w)` or `(batch, h, w, channels)`, of the images' size "
            f"{tuple(images.shape[1:3])}. Received: shape={tuple(masks.shape)}"
        )


def check_annotations(boxes, points):
    """Raises an error for batches of boxes and points that don't have their form."""
    if boxes is not None and (boxes.shape.rank != 3 or boxes.shape[-1] != 4):
        raise ValueError(f"`boxes` must be `(batch, num, 4)`. Received: shape={tuple(boxes.shape)}")
    if points is not None and (points.shape.rank not in (3, 4) or points.shape[-1] not in (2, 3)):
        raise ValueError(
            "`points` must be `(batch, num, 2 or 3)`, or `(batch, instances, num, 2 or 3)`. "
            f"Received: shape={tuple(points.shape)}"
        )


def annotations_tensor(name, value):
    """Returns boxes, what belongs to them, or points as a tensor; what can't be one is an error."""
    if value is None:
        return None
    try:
        if isinstance(value, (dict, tf.RaggedTensor)):
            raise TypeError
        return tf.convert_to_tensor(value)
    except (TypeError, ValueError):
        raise ValueError(
            f"`{name}` must have as many rows for each image: fill them up by -1, as `ragged.to_tensor(-1)` does. "
            f"Received: {name}={shown(value)}"
        ) from None


def check_annotations_of(images, boxes, points):
    """Raises an error if boxes, a tensor or a dictionary of tensors, and points of a call don't fit its images."""
    if isinstance(boxes, dict):
        if "boxes" not in boxes:
            raise ValueError(f"`boxes` as a dictionary must have the key 'boxes'. Received: keys={sorted(boxes)}")
        first = boxes["boxes"].shape[:2]
        for name, rows in boxes.items():
            if name != "boxes" and not (rows.shape.rank >= 2 and rows.shape[:2].is_compatible_with(first)):
                raise ValueError(
                    f"What belongs to boxes must have a row for each of them, {tuple(first)}. "
                    f"Received: {name} of shape {tuple(rows.shape)}"
                )
            if name != "boxes" and rows.dtype.is_unsigned:
                raise ValueError(
                    "What belongs to boxes becomes -1 where a box is dropped: cast it to int32. "
                    f"Received: dtype={rows.dtype.name} of {name}"
                )
        boxes = boxes["boxes"]
    for name, value in (("boxes", boxes), ("points", points)):
        if value is not None and not value.shape[:1].is_compatible_with(images.shape[:1]):
            raise ValueError(
                f"`{name}` must be of as many images as there are, {images.shape[0]}. "
                f"Received: shape={tuple(value.shape)}"
            )
