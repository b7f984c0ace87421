"""Where fractional pooling cuts an image."""

import numpy as np

from kregkit.plots._axes import new_axes


def pooling_regions(image, rows, columns, axes=None, *, color="tab:orange", title=None):
    """Draws an image with the boundaries of its pooling regions.

    Args:
        image: Array `(height, width)` or `(height, width, channels)` with 1, 3 or 4 channels; grey images are drawn
            from their lowest to their highest value.
        rows, columns: Sequences of boundaries, from 0 to the height or the width, as `fractional_max_pool` takes them.
        axes: Matplotlib Axes to draw on. Defaults to new ones.
        color: The boundaries' colour.
        title: String over the picture. Defaults to the numbers of regions.

    Returns:
        The Axes.

    Raises:
        ValueError: for boundaries that don't end where the image does.

    Example:

    >>> import numpy as np
    >>> axes = pooling_regions(np.eye(5), [0, 2, 3, 5], [0, 1, 3, 5])
    >>> axes.get_title()
    '5 x 5 to 3 x 3'
    """
    image = np.asarray(image)
    rows, columns = np.asarray(rows), np.asarray(columns)
    height, width = image.shape[:2]
    for name, found, length in (("rows", rows, height), ("columns", columns, width)):
        if found.ndim != 1 or found[0] != 0 or found[-1] != length or (np.diff(found) < 1).any():
            raise ValueError(f"`{name}` must rise from 0 to the image's {length}. Received: {name}={found.tolist()}")
    axes = new_axes(axes, (4.2, 4.2))
    if image.ndim == 3 and image.shape[-1] == 1:
        image = image[..., 0]
    axes.imshow(image, cmap="gray", interpolation="nearest", extent=(0, width, height, 0))
    # Thin enough that a dense grid leaves the image visible.
    line = {"color": color, "linewidth": min(1.8, max(0.35, 60 / max(len(rows), len(columns)) / 8)), "alpha": 0.9}
    axes.hlines(rows, 0, width, **line, clip_on=False)
    axes.vlines(columns, 0, height, **line, clip_on=False)
    axes.set_axis_off()
    axes.set_title(title or f"{height} x {width} to {len(rows) - 1} x {len(columns) - 1}", fontsize=10)
    return axes
