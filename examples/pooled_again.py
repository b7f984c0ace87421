"""Fractional max pooling, again and again: coarser and coarser regions, and how they distort a photograph.

    python examples/pooled_again.py [--smoke]

After Graham (2014, https://arxiv.org/abs/1412.6071): a photograph is pooled by a ratio of the square root of two, four
times in a row, with regions that are drawn anew each time. Random regions distort it like an elastic cloth, each draw
differently; pseudorandom ones hardly do. The regions of all layers together are drawn as a grid. The picture is
saved to examples/output/pooled_again.png.
"""

import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import matplotlib
import numpy as np

matplotlib.use("Agg")

import keras
import matplotlib.pyplot as plt
from sklearn.datasets import load_sample_image

from kregkit.layers import FractionalMaxPooling2D

SMOKE = "--smoke" in sys.argv
OUTPUT = pathlib.Path(__file__).parent / "output"
TIMES = 2 if SMOKE else 4
RATIO = 2**0.5


def pooled(image, regions, seed):
    """Pools an image `TIMES` times; returns it and, for each row and column left, where its region begins."""
    height, width = image.shape[:2]
    # The largest of a ramp's values in a region is the region's last row or column.
    rows = np.repeat(np.arange(height, dtype="float32")[:, None], width, axis=1)
    columns = np.repeat(np.arange(width, dtype="float32")[None], height, axis=0)
    values = np.concatenate([image, rows[..., None], columns[..., None]], axis=-1)[None]
    for time in range(TIMES):
        layer = FractionalMaxPooling2D(RATIO, regions, overlapping=False, seed=100 * seed + time)
        values = layer.draw_call(keras.ops.convert_to_tensor(values))
    values = keras.ops.convert_to_numpy(values)[0]
    return values[..., :3], values[:, 0, 3] + 1, values[0, :, 4] + 1


def main():
    photograph = load_sample_image("flower.jpg")[70:390, 160:480] / np.float32(255)
    figure, grid = plt.subplots(2, 4, figsize=(13.2, 7), layout="constrained")
    for row, regions in zip(grid, ("random", "pseudorandom")):
        row[0].imshow(photograph, extent=(0, 320, 320, 0))
        _, rows, columns = pooled(photograph, regions, 0)
        row[0].hlines(rows, 0, 320, color="white", linewidth=0.4, alpha=0.8)
        row[0].vlines(columns, 0, 320, color="white", linewidth=0.4, alpha=0.8)
        row[0].set_title(f"{regions} regions: the grid of draw 1", fontweight="bold", loc="left", fontsize=11)
        for seed, axis in enumerate(row[1:]):
            small, _, _ = pooled(photograph, regions, seed)
            axis.imshow(np.clip(small, 0, 1), interpolation="nearest")
            axis.set_title(f"draw {seed + 1}: {small.shape[0]} x {small.shape[1]}", fontsize=11, loc="left")
    for axis in grid.flat:
        axis.set_axis_off()
    title = f"320 x 320 pixels, pooled {TIMES} times by the root of two: each draw distorts the image differently"
    figure.suptitle(title, fontsize=14, fontweight="bold", color="0.2")
    OUTPUT.mkdir(exist_ok=True)
    figure.savefig(OUTPUT / "pooled_again.png", dpi=110)
    print("saved", OUTPUT / "pooled_again.png")


main()
