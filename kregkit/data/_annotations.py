"""Boxes and points that follow their image: read, moved by the same steps as its pixels, mixed, and written again."""

import typing

import tensorflow as tf

# A visible part below this is rounding.
_NOTHING = 1e-5


class Annotations(typing.NamedTuple):
    """Boxes and points of a batch, in pixels from the upper left corner. Either may be `None`.

    - boxes: float32 `(batch, num, 5)`: left, top, right, bottom, and the share of the area that is still seen.
    - rows: list of tensors `(batch, num, ...)`, which belong to the boxes.
    - points: float32 `(batch, num, 3 or 4)`: x, y, 1 where it is seen, and the flag that it came with.
    """

    boxes: tf.Tensor | None
    rows: list
    points: tf.Tensor | None

    def moved(self, steps, size, new_size):
        """Returns these after a transform: `steps` as for `_warp.coordinates`, sizes as pairs (height, width)."""
        boxes, points = self.boxes, self.points
        if boxes is not None:
            curved = any(step[0] == "radial" for step in steps)
            x, y = _forward(*_outline(boxes, 8 if curved else 1), steps, size, new_size)
            corners, share = _seen_part(x, y, new_size)
            boxes = tf.concat([corners, (boxes[..., 4:] * share[..., None])], -1)
        if points is not None:
            x, y = _forward(points[..., 0], points[..., 1], steps, size, new_size)
            seen = points[..., 2] * tf.cast(_within(x, y, new_size), tf.float32)
            points = tf.concat([tf.stack([x, y, seen], -1), points[..., 3:]], -1)
        return Annotations(boxes, self.rows, points)

    def scaled(self, own):
        """Returns these with shares and sights multiplied by `own`, `(batch,)`: 0 or 1."""
        boxes, points = self.boxes, self.points
        if boxes is not None:
            boxes = tf.concat([boxes[..., :4], boxes[..., 4:] * own[:, None, None]], -1)
        if points is not None:
            points = tf.concat([points[..., :2], points[..., 2:3] * own[:, None, None], points[..., 3:]], -1)
        return Annotations(boxes, self.rows, points)

    def inside(self, window):
        """Returns what is left of these in a window `(batch, 4)`."""
        return self._cut(window[:, None], keep=True)

    def outside(self, window):
        """Returns what is left of these where something else covers a window `(batch, 4)`."""
        return self._cut(window[:, None], keep=False)

    def _cut(self, window, keep):
        boxes, points = self.boxes, self.points
        if boxes is not None:
            corners, share = boxes[..., :4], boxes[..., 4:]
            common = tf.concat(
                [tf.maximum(corners[..., :2], window[..., :2]), tf.minimum(corners[..., 2:], window[..., 2:])], -1
            )
            seen = tf.math.divide_no_nan(_area(common), _area(corners))[..., None]
            boxes = (
                tf.concat([common, share * seen], -1)
                if keep
                else tf.concat([_trimmed(corners, window), share * (1 - seen)], -1)
            )
        if points is not None:
            x, y = points[..., 0], points[..., 1]
            covered = (x >= window[..., 0]) & (x < window[..., 2]) & (y >= window[..., 1]) & (y < window[..., 3])
            seen = points[..., 2] * tf.cast(covered == keep, tf.float32)
            points = tf.concat([points[..., :2], seen[..., None], points[..., 3:]], -1)
        return Annotations(boxes, self.rows, points)

    def joined(self, other):
        """Returns these and others of the same batch, in one list for each image."""

        def both(first, second):
            return None if first is None else tf.concat([first, second], 1)

        rows = [both(*each) for each in zip(self.rows, other.rows)]
        return Annotations(both(self.boxes, other.boxes), rows, both(self.points, other.points))

    def gather(self, order):
        """Returns these of other images of the batch."""
        return tf.nest.map_structure(lambda value: None if value is None else tf.gather(value, order), self)


def read(boxes, rows, box_format, points, point_format, size):
    """Returns `Annotations` from what elements hold.

    Args:
        boxes: `(batch, num, 4)` of any number type, or `None`.
        rows: List of tensors.
        box_format, point_format: Strings.
        points: `(batch, num, 2 or 3)` or `(batch, instances, num, 2 or 3)`, or `None`.
        size: Pair (height, width).
    """
    height, width = (tf.cast(side, tf.float32) for side in size)
    if boxes is not None:
        boxes = _from_format(tf.cast(boxes, tf.float32), box_format, height, width)
        inside = tf.stack([
            tf.clip_by_value(boxes[..., index], 0.0, (width, height)[index % 2]) for index in range(4)
        ], -1)  # fmt: skip
        there = (inside[..., 2] > inside[..., 0]) & (inside[..., 3] > inside[..., 1])
        there &= tf.reduce_all(tf.math.is_finite(boxes), -1)
        boxes = tf.concat([tf.where(there[..., None], inside, 0.0), tf.cast(there, tf.float32)[..., None]], -1)
    if points is not None:
        points = tf.cast(points, tf.float32)
        points = tf.reshape(points, (tf.shape(points)[0], -1, points.shape[-1]))
        x, y = points[..., 0], points[..., 1]
        if point_format.endswith("yx"):
            x, y = y, x
        if point_format.startswith("rel_"):
            x, y = x * width, y * height
        seen = _within(x, y, size)
        if points.shape[-1] == 3:
            seen &= points[..., 2] > 0
        points = tf.concat([tf.stack([x, y, tf.cast(seen, tf.float32)], -1), points[..., 2:]], -1)
    return Annotations(boxes, list(rows), points)


def write_boxes(annotations, description, size):
    """Returns boxes in their format, and their rows, without those that are dropped; as `Boxes` says."""
    height, width = (tf.cast(side, tf.float32) for side in size)
    boxes, rows, most = annotations.boxes, annotations.rows, description.max_boxes
    there = boxes[..., 4] >= max(description.min_visible - _NOTHING, _NOTHING)
    if most is not None:
        # One more place, for what isn't there.
        order = tf.argsort(tf.cast(~there, tf.int32), -1, stable=True)[:, :most]
        missing = most - tf.shape(order)[1]

        def pick(value):
            value = tf.gather(value, order, batch_dims=1)
            value = tf.pad(value, [[0, 0], [0, missing], *[[0, 0]] * (value.shape.rank - 2)])
            return tf.ensure_shape(value, (value.shape[0], most, *value.shape[2:]))

        boxes, there, rows = pick(boxes), pick(there), [pick(row) for row in rows]
    boxes = _to_format(boxes[..., :4], description.format, height, width)
    return tf.where(there[..., None], boxes, -1.0), [_only(there, row) for row in rows]


def write_points(annotations, point_format, size, instance, numbers):
    """Returns points in their format.

    Args:
        annotations: `Annotations`.
        point_format: String.
        size: Pair (height, width).
        instance: The number of points of each instance, or `None` where there are no instances.
        numbers: 2 or 3, of each point.
    """
    height, width = (tf.cast(side, tf.float32) for side in size)
    x, y, seen = (annotations.points[..., index : index + 1] for index in range(3))
    if point_format.startswith("rel_"):
        x, y = x / width, y / height
    there = seen > 0
    pair = tf.concat([y, x] if point_format.endswith("yx") else [x, y], -1)
    points = tf.where(there, pair, -1.0)
    if numbers == 3:
        points = tf.concat([points, tf.where(there, annotations.points[..., 3:], 0.0)], -1)
    if instance is None:
        return points
    return tf.reshape(points, (tf.shape(points)[0], -1, instance, points.shape[-1]))


def nothing(dtype):
    """Returns what stands in the rows of boxes that aren't there."""
    if dtype == tf.string:
        return tf.constant("")
    return tf.zeros((), dtype) if dtype == tf.bool else tf.constant(-1, dtype)


def _only(there, row):
    there = tf.reshape(there, tf.concat([tf.shape(there), [1] * (row.shape.rank - 2)], 0))
    return tf.where(there, row, nothing(row.dtype))


def _from_format(boxes, box_format, height, width):
    a, b, c, d = tf.unstack(boxes, axis=-1)
    if _rows_first(box_format):
        a, b, c, d = b, a, d, c
    if box_format.startswith("rel_"):
        a, b, c, d = a * width, b * height, c * width, d * height
    if "center" in box_format:
        a, b = a - c / 2, b - d / 2
    if box_format.endswith(("wh", "hw")):
        c, d = a + c, b + d
    return tf.stack([a, b, c, d], -1)


def _to_format(boxes, box_format, height, width):
    a, b, c, d = tf.unstack(boxes, axis=-1)
    if box_format.endswith(("wh", "hw")):
        c, d = c - a, d - b
    if "center" in box_format:
        a, b = a + c / 2, b + d / 2
    if box_format.startswith("rel_"):
        a, b, c, d = a / width, b / height, c / width, d / height
    return tf.stack([b, a, d, c] if _rows_first(box_format) else [a, b, c, d], -1)


def _rows_first(box_format):
    return box_format.removeprefix("rel_").removeprefix("center_").startswith("y")


def _area(boxes):
    sides = tf.maximum(boxes[..., 2:4] - boxes[..., :2], 0.0)
    return sides[..., 0] * sides[..., 1]


def _within(x, y, size):
    height, width = (tf.cast(side, tf.float32) for side in size)
    return (x >= 0) & (x <= width) & (y >= 0) & (y <= height)


def _trimmed(boxes, window):
    """Returns the smallest boxes around what a window leaves of boxes."""
    corners = tf.unstack(boxes, axis=-1)
    edges = tf.unstack(window, axis=-1)
    result = list(corners)
    for axis, across in ((0, 1), (1, 0)):
        # Cut off from one side only where the window covers the box from one end to the other in the other direction.
        whole = (edges[across] <= corners[across]) & (edges[across + 2] >= corners[across + 2])
        start, end, low, high = corners[axis], corners[axis + 2], edges[axis], edges[axis + 2]
        result[axis] = tf.where(whole & (low <= start) & (high > start), tf.minimum(high, end), start)
        result[axis + 2] = tf.where(whole & (high >= end) & (low < end), tf.maximum(low, start), end)
    return tf.stack(result, -1)


def _outline(boxes, pieces):
    """Returns x and y `(batch, num, 4 pieces)` of points around boxes, each side cut into pieces."""
    left, top, right, bottom = (boxes[..., index : index + 1] for index in range(4))
    part = tf.range(pieces, dtype=tf.float32) / pieces
    x = [left + part * (right - left), right + 0 * part, right + part * (left - right), left + 0 * part]
    y = [top + 0 * part, top + part * (bottom - top), bottom + 0 * part, bottom + part * (top - bottom)]
    return tf.concat(x, -1), tf.concat(y, -1)


def _forward(x, y, steps, size, new_size):
    """Returns where points of the input are in the output; `steps` lead from the output back to the input."""
    (height, width), (new_height, new_width) = (
        [tf.cast(side, tf.float32) for side in each] for each in (size, new_size)
    )
    x, y = x - width / 2, y - height / 2
    for kind, *values in steps:
        if kind == "affine":
            m = [values[0][:, row, column, None] for row in range(2) for column in range(3)]
            m = [each[..., None] if x.shape.rank == 3 else each for each in m]
            determinant = m[0] * m[4] - m[1] * m[3]
            x, y = x - m[2], y - m[5]
            x, y = (m[4] * x - m[1] * y) / determinant, (m[0] * y - m[3] * x) / determinant
        else:
            factor = _radial_inverse(x, y, *values)
            x, y = x * factor, y * factor
    return x + new_width / 2, y + new_height / 2


def _radial_inverse(x, y, coefficient, scale):
    """Returns the factors that undo `p (1 + k r^2)`: what points of the input are multiplied by."""
    k = tf.reshape(coefficient, (-1, *[1] * (x.shape.rank - 1)))
    # In units of half the diagonal.
    radius = tf.sqrt((x * x + y * y) * scale)
    # Beyond the image's corner pincushion distortion turns round, and nothing is seen: a straight line goes on.
    limit = tf.where(k < 0, 1 + k, tf.float32.max)
    target = tf.minimum(radius, limit)
    r = target
    for _ in range(12):
        # Newton's method comes from one side, as the curve bends one way.
        r = r - (r + k * r**3 - target) / (1 + 3 * k * r**2)
    return tf.where(radius > 0, (r + radius - target) / tf.where(radius > 0, radius, 1.0), 1.0)


def _seen_part(x, y, size):
    """Returns the smallest boxes around what an image of a size shows of polygons, and which share of their area it is.

    Args:
        x, y: `(batch, num, corners)`, in order around each polygon.
        size: Pair (height, width).

    Returns:
        Boxes `(batch, num, 4)`, zeros where nothing is seen, and shares `(batch, num)`.
    """
    height, width = (tf.cast(side, tf.float32) for side in size)
    next_x, next_y = tf.roll(x, -1, -1), tf.roll(y, -1, -1)
    # What the smallest box touches: corners of the polygon in the image, its sides' crossings with the image's border,
    # and corners of the image in the polygon.
    across, down, good = [x], [y], [_near(x, width) & _near(y, height)]
    for first, second, next_first, next_second, end, other_end, swap in (
        (x, y, next_x, next_y, width, height, False),
        (y, x, next_y, next_x, height, width, True),
    ):
        for border in (0.0 * end, end):
            crosses = (first < border) != (next_first < border)
            part = (border - first) / tf.where(crosses, next_first - first, 1.0)
            at = second + part * (next_second - second)
            pair = (at, border + 0 * at) if swap else (border + 0 * at, at)
            across.append(pair[0])
            down.append(pair[1])
            good.append(crosses & _near(at, other_end))
    corner_x, corner_y = (
        tf.stack([0 * width, width, 0 * width, width]),
        tf.stack([0 * height, 0 * height, height, height]),
    )
    across.append(corner_x + 0 * x[..., :1])
    down.append(corner_y + 0 * x[..., :1])
    px, py = corner_x[:, None], corner_y[:, None]
    x_at = x[..., None, :] + (py - y[..., None, :]) * tf.math.divide_no_nan(next_x - x, next_y - y)[..., None, :]
    crossings = ((y[..., None, :] > py) != (next_y[..., None, :] > py)) & (px < x_at)
    good.append(tf.reduce_sum(tf.cast(crossings, tf.int32), -1) % 2 == 1)
    across, down, good = (tf.concat(each, -1) for each in (across, down, good))
    across, down = tf.clip_by_value(across, 0.0, width), tf.clip_by_value(down, 0.0, height)
    far = tf.float32.max
    boxes = tf.stack(
        [tf.reduce_min(tf.where(good, value, far), -1) for value in (across, down)]
        + [tf.reduce_max(tf.where(good, value, -far), -1) for value in (across, down)],
        -1,
    )
    # Areas by the border: the image's part is the integral of the clipped height over the clipped width.
    # From a corner of the polygon, so that large products don't cancel.
    x_off, y_off, next_x_off, next_y_off = x - x[..., :1], y - y[..., :1], next_x - x[..., :1], next_y - y[..., :1]
    whole = tf.abs(tf.reduce_sum(x_off * next_y_off - next_x_off * y_off, -1)) / 2
    seen = tf.abs(tf.reduce_sum(_strip(x, y, next_x, next_y, width, height), -1))
    share = tf.clip_by_value(tf.math.divide_no_nan(seen, whole), 0.0, 1.0)
    there = tf.reduce_any(good, -1) & (share > _NOTHING)
    return tf.where(there[..., None], boxes, 0.0), tf.where(there, share, 0.0)


def _near(position, end):
    return (position >= -1e-3) & (position <= end + 1e-3)


def _strip(x, y, next_x, next_y, width, height):
    """Returns the area between each side and the x axis, signed, of what lies in the image."""
    slope = tf.math.divide_no_nan(next_y - y, next_x - x)
    start, end = tf.clip_by_value(x, 0.0, width), tf.clip_by_value(next_x, 0.0, width)
    first, second = y + slope * (start - x), y + slope * (end - x)
    rise = second - first

    def integral(value):
        inner = tf.clip_by_value(value, 0.0, height)
        return inner * inner / 2 + height * tf.maximum(value - height, 0.0)

    # The mean of the clipped height over the side: its middle where the side rises too little for a difference.
    flat = tf.abs(rise) < 0.5
    mean = (integral(second) - integral(first)) / tf.where(flat, 1.0, rise)
    mean = tf.where(flat, tf.clip_by_value((first + second) / 2, 0.0, height), mean)
    return mean * (end - start)
