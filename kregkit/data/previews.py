"""What a model will see, for the eye, before the long run."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kregkit._core import rules
from kregkit._core.checks import check_integer, check_list, check_path
from kregkit._core.optional import import_optional
from kregkit.data import _annotations
from kregkit.data._fields import get

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_NAMES = 3


@rules.checked(label=rules.key)
def preview(dataset: Any, num: int = 16, label: str | int = "label", class_names: list[str] | None = None) -> Preview:
    """Takes one batch of a pipeline and shows it as a contact sheet: labels, boxes, masks and points drawn in.

    The pipeline's epoch is left as it was. A source that can be read once only has given its first batch away.

    Args:
        dataset: What `pipeline` returns.
        num: Integer >= 1, the most images to show. Defaults to `16`.
        label: Where dictionaries hold labels, as for `pipeline`.
        class_names: List of strings, which stand for class numbers. Defaults to those of a folder of images.

    Returns:
        A `Preview`, which a notebook shows by itself; `preview.save("sheet.png")` and `preview.plot()` elsewhere.

    Example:

    >>> from kregkit.data import RandomRotation, digits, pipeline, preview
    >>> sheet = preview(pipeline(digits("train", as_arrays=True), 32, [RandomRotation(20)]), num=9)
    >>> sheet.images.shape, len(sheet.titles)
    ((9, 8, 8, 1), 9)
    """
    num = check_integer("num", num, 1)
    fields = getattr(dataset, "augmented_fields", None)
    if fields is None or fields.image is None:
        what = "a pipeline whose elements hold images" if fields is not None else type(dataset).__name__
        raise ValueError(
            "`dataset` must be what kregkit.data.pipeline returns for images, itself: not what `.take`, `.map` or a "
            f"strategy made of it. Received: dataset={what if fields is None else 'a pipeline without images'}"
        )
    if class_names is None:
        class_names = getattr(dataset.source, "class_names", None)
    else:
        check_list("class_names", class_names)
    epoch = int(dataset.epoch)
    try:
        element = next(iter(dataset), None)
    finally:
        dataset.epoch.assign(epoch)
    if element is None:
        raise ValueError("`dataset` must give a batch. Received: dataset=a pipeline without batches")
    if isinstance(element, tuple) and len(element) == 2 and _has_keys(dataset, fields):
        element = element[0]
    return Preview(element, fields, num, label, class_names)


def _has_keys(dataset, fields):
    """Returns whether elements are pairs of the source's elements and keys."""
    try:
        return get(dataset.element_spec[0], fields.image).shape.rank == 4
    except (KeyError, IndexError, TypeError, AttributeError):
        return False


class Preview:
    """A contact sheet of a batch.

    Attributes: `images` `(num, h, w, channels)` in [0, 1], `titles`, `boxes` and `points` in pixels (lists of arrays,
    without those that were dropped), `box_titles`, `masks`. Each is `None` where there is none.
    """

    def __init__(
        self, element: Any, fields: Any, num: int, label: str | int, class_names: Sequence[str] | None
    ) -> None:
        images = np.asarray(get(element, fields.image))[:num]
        size = images.shape[1:3]
        self.images = _to_show(images, fields.augment)
        names = _Names(class_names)
        labels = _labels(element, fields, label)
        self.titles = None if labels is None else [names.of(one) for one in np.asarray(labels)[:num]]
        self.masks = None
        if fields.masks is not None:
            masks = np.asarray(get(element, fields.masks))[:num]
            self.masks = (masks[..., 0] if masks.shape[-1] == 1 else masks.argmax(-1)) if masks.ndim == 4 else masks
        self.boxes = self.box_titles = self.points = None
        if fields.box_path is not None:
            boxes = get(element, fields.box_path)[:num]
            found = _annotations.read(boxes, [], fields.boxes.format, None, "xy", size).boxes.numpy()
            there = found[..., 4] > 0
            self.boxes = [one[good, :4] for one, good in zip(found, there)]
            if fields.row_paths:
                rows = np.asarray(get(element, fields.row_paths[0]))[:num]
                self.box_titles = [[names.of(one) for one in row[good]] for row, good in zip(rows, there)]
        if fields.point_path is not None:
            points = get(element, fields.point_path)[:num]
            found = _annotations.read(None, [], "xyxy", points, fields.points.format, size).points.numpy()
            self.points = [one[one[:, 2] > 0, :2] for one in found]

    def plot(self, figure: Figure | None = None) -> Any:
        """Draws the sheet on a matplotlib Figure, a new one by default, and returns it."""
        from kregkit import plots

        return plots.contact_sheet(
            self.images, self.titles, self.boxes, self.box_titles, self.masks, self.points, figure=figure
        )

    def save(self, path: str) -> Any:
        """Writes the sheet to an image file, such as `"sheet.png"`."""
        self._drawn().savefig(check_path("path", path), dpi=130)

    def _drawn(self):
        # Not by pyplot, which would keep it and show it a second time.
        figure = import_optional("matplotlib.figure", "kregkit.data.preview")
        columns = int(np.ceil(np.sqrt(len(self.images))))
        rows = -(-len(self.images) // columns)
        height, width = self.images.shape[1:3]
        size = (1.9 * columns, (1.9 * height / width + 0.3) * rows)
        return self.plot(figure.Figure(figsize=size, layout="constrained"))

    def __repr__(self):
        num = len(self.images)
        parts = [f"{num} image{'s' * (num != 1)} {'x'.join(map(str, self.images.shape[1:]))}"]
        if self.titles is not None:
            parts.append("labels " + ", ".join(self.titles[:8]) + (", ..." if len(self.titles) > 8 else ""))
        for name in ("boxes", "points"):
            values = getattr(self, name)
            if values is not None:
                parts.append(f"{sum(map(len, values))} {name}")
        return f"Preview({'; '.join(parts + ['masks'] * (self.masks is not None))})"

    def _repr_html_(self):
        stream = io.BytesIO()
        self._drawn().savefig(stream, format="png", dpi=110)
        return f'<img alt="a batch" src="data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}">'


class _Names:
    """What labels are called."""

    def __init__(self, class_names):
        self.class_names = class_names

    def of(self, value):
        value = np.asarray(value)
        if value.ndim == 0:
            value = value[()]
            if isinstance(value, bytes):
                return value.decode(errors="replace")
            if isinstance(value, (np.integer, np.bool_)):
                return self._class(int(value))
            return f"{value:.3g}" if isinstance(value, np.floating) else str(value)
        if value.ndim == 1 and value.size == 1:
            return self.of(value[0])
        if value.ndim == 1 and np.issubdtype(value.dtype, np.number):
            return self._vector(value)
        return ""

    def _vector(self, values):
        if not ((values >= 0) & (values <= 1)).all():
            # No probabilities.
            return ", ".join([f"{value:.3g}" for value in values[:_MOST_NAMES]] + ["..."] * (len(values) > _MOST_NAMES))
        order = [int(index) for index in np.argsort(-values, kind="stable") if values[index] > 0.005]
        # One-hot, or of several classes; or mixed, the largest first.
        is_set = np.isclose(values[order], 1).all()
        parts = [("" if is_set else f"{values[index]:.0%} ") + self._class(index) for index in order[:_MOST_NAMES]]
        return " + ".join(parts)

    def _class(self, number):
        known = self.class_names is not None and 0 <= number < len(self.class_names)
        return str(self.class_names[number]) if known else str(number)


def _labels(element, fields, label):
    """Returns the images' labels, or `None`."""
    path = fields.labels
    if path is None:
        taken = (fields.image, fields.masks, fields.box_path, fields.point_path, *fields.row_paths)
        if isinstance(element, (tuple, list)) and len(element) > 1 and not isinstance(element[1], dict):
            path = (1,)
        else:
            path = next((path for path in _paths(element) if path[-1] == label), None)
        if path is None or path in taken:
            return None
    values = get(element, path)
    return values if len(values.shape) in (1, 2) else None


def _paths(element, path=()):
    if isinstance(element, (dict, tuple, list)):
        for step, part in element.items() if isinstance(element, dict) else enumerate(element):
            yield from _paths(part, (*path, step))
    elif path:
        yield path


def _to_show(images, augment):
    """Returns images of 1 or 3 channels in [0, 1]."""
    low, high = augment.value_range
    if not all(operation.keeps_range for operation in augment.operations):
        # Standardised: the batch's own range.
        low, high = (float(end) for end in np.quantile(images, (0.005, 0.995)))
    images = np.clip((images - low) / max(high - low, 1e-6), 0, 1)
    return images if images.shape[-1] in (1, 3) else images[..., : 3 if images.shape[-1] > 3 else 1]
