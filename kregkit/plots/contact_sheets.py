"""A contact sheet: many images in a grid, with what is known of each drawn in."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from kregkit._core import rules
from kregkit._core.optional import import_optional

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_COLORS = ("#e6194b", "#3cb44b", "#ffe119", "#4363d8", "#f58231", "#911eb4", "#42d4f4", "#f032e6", "#bfef45", "#9a6324")
_LETTERS_PER_INCH = 13.7


@rules.checked(
    images=rules.any_of(rules.array(4, finite=False), rules.entries(rules.array(3, finite=False), empty=True)),
    titles=rules.entries(rules.word(empty=True), none=True),
    boxes=rules.entries(rules.points(4), none=True),
    box_titles=rules.entries(rules.entries(rules.word(empty=True), empty=True), none=True),
    masks=rules.array(3, none=True),
    points=rules.entries(rules.points(2), none=True),
    columns=rules.whole(1, 1000, none=True),
    figure=rules.figure,
)
def contact_sheet(
    images: Any,
    titles: list[str] | None = None,
    boxes: list | None = None,
    box_titles: list[list[str]] | None = None,
    masks: Any = None,
    points: list | None = None,
    columns: int | None = None,
    figure: Figure | None = None,
) -> Figure:
    """Draws images in a grid, with titles, boxes, masks and points.

    Args:
        images: `(num, h, w, 1 or 3)` in [0, 1], or a list of images `(h, w, 1 or 3)`.
        titles: List of strings, one for each image. Long ones take two lines, and are shortened to them.
        boxes: List of arrays `(num_boxes, 4)`: left, top, right and bottom, in pixels from the upper left corner.
        box_titles: List of lists of strings, one for each box. Boxes of one title have one colour.
        masks: `(num, h, w)` integers, each number in its colour; 0, the background, is left out.
        points: List of arrays `(num_points, 2)`: x and y.
        columns: Integer. Defaults to a sheet about as wide as high.
        figure: Matplotlib Figure to draw on. Defaults to a new one.

    Returns:
        The Figure.

    Example:

    >>> import numpy as np
    >>> figure = contact_sheet(np.zeros((3, 8, 8, 1)), ["a", "b", "c"], boxes=[[[1, 1, 4, 5]], [], []])
    >>> len(figure.axes)
    3
    """
    num = len(images)
    if not num:
        raise ValueError("`images` must hold at least one image. Received: images=0 images")
    given = {"titles": titles, "boxes": boxes, "box_titles": box_titles, "masks": masks, "points": points}
    for name, entries in given.items():
        if entries is not None and len(entries) < num:
            raise ValueError(
                f"`{name}` must have an entry for each of {num} images. Received: {name} with {len(entries)} entries"
            )
    columns = math.ceil(math.sqrt(num)) if columns is None else columns
    rows = math.ceil(num / columns)
    if figure is None:
        plt = import_optional("matplotlib.pyplot", "kregkit.plots")
        height, width = np.shape(images[0])[:2]
        figure = plt.figure(figsize=(1.9 * columns, (1.9 * height / width + 0.3) * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[num:]:
        axes.remove()
    num_letters = max(8, int(_LETTERS_PER_INCH * figure.bbox.width / figure.dpi / columns))
    colors: dict[str, Any] = {}
    for index, axes in enumerate(grid[:num]):
        _one(axes, np.asarray(images[index]), None if masks is None else np.asarray(masks[index]))
        if titles is not None:
            # "$5 or 6$" is no formula.
            axes.set_title(_shortened(titles[index], num_letters), fontsize=8, pad=3, parse_math=False)
        for number, box in enumerate(() if boxes is None else boxes[index]):
            title = "" if box_titles is None else box_titles[index][number]
            _box(axes, box, title, colors.setdefault(title, _COLORS[len(colors) % len(_COLORS)]))
        if points is not None and len(points[index]):
            x, y = np.asarray(points[index]).T
            axes.scatter(x - 0.5, y - 0.5, s=12, c="#42d4f4", edgecolors="black", linewidths=0.5, zorder=3)
    return figure


def _shortened(title, num_letters):
    """Returns a title in at most two lines, which don't reach into the neighbours'."""
    if len(title) <= num_letters:
        return title
    lines = textwrap.wrap(title, num_letters)
    if len(lines) > 2:
        lines = [lines[0], lines[1][: num_letters - 3] + "..."]
    return "\n".join(lines)


def _one(axes, image, mask):
    axes.imshow(image[..., 0] if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    # What is drawn in must not make room for itself.
    axes.autoscale(False)
    if mask is not None:
        colors = import_optional("matplotlib.colors", "kregkit.plots")
        paint = np.zeros((*mask.shape, 4))
        for value in np.unique(mask[mask != 0]):
            paint[mask == value] = colors.to_rgba(_COLORS[int(value - 1) % len(_COLORS)], 0.45)
        axes.imshow(paint, interpolation="nearest")


def _box(axes, box, title, color):
    patches = import_optional("matplotlib.patches", "kregkit.plots")
    left, top, right, bottom = (float(end) for end in box)
    # The picture's first pixel is drawn from -0.5 to 0.5.
    corner = (left - 0.5, top - 0.5)
    axes.add_patch(patches.Rectangle(corner, right - left, bottom - top, fill=False, edgecolor=color, linewidth=1.4))
    if title:
        style = {"facecolor": color, "edgecolor": "none", "pad": 0.8, "alpha": 0.85}
        axes.text(*corner, title, fontsize=6, color="black", va="top", clip_on=True, bbox=style, parse_math=False)
