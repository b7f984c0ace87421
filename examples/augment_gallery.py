"""Draws every augmentation six times on each of two photographs, and ten-crop's ten views.

    python examples/augment_gallery.py [--smoke]

The pictures are saved as examples/output/augment_gallery.png and examples/output/ten_crop.png.
"""

import argparse
import pathlib

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_sample_images

from kregkit import data

SIZE = 224
NUM_DRAWS = 6
SEED = 7
OUTPUT = pathlib.Path(__file__).parent / "output"


def photographs():
    """Returns the temple and the flower, 427x427, halved to 213x213 and brought to SIZE."""
    squares = [image[:, 106 : 106 + 427] for image in load_sample_images().images]
    return np.round(tf.image.resize(np.stack(squares), (SIZE, SIZE), antialias=True)).astype("uint8")


def operations(images):
    """Returns the rows of the gallery: a title and the operations of a row, a little stronger than for training."""
    many = data.Augment([data.RandomResizedCrop(SIZE), data.RandomFlip()])(np.repeat(images, 50, 0), SEED)
    return {
        "as they are": [],
        "RandomFlip('both')": [data.RandomFlip("both")],
        "RandomCrop(28)": [data.RandomCrop(28)],
        "RandomResizedCrop": [data.RandomResizedCrop(SIZE)],
        "RandomTranslation(0.2, 0.2)": [data.RandomTranslation(0.2, 0.2)],
        "RandomRotation(30)": [data.RandomRotation(30)],
        "RandomStretch(0.4)": [data.RandomStretch(0.4)],
        "RandomShear(20)": [data.RandomShear(20)],
        "LensDistortion(0.3)": [data.LensDistortion(0.3)],
        "RandomRotation(30,\nfill='reflect')": [data.RandomRotation(30, fill="reflect")],
        "ColorJitter(0.5, 0.5, 0.8)": [data.ColorJitter(0.5, 0.5, 0.8)],
        "ColorJitter(0, 0, 0,\nhue=0.1)": [data.ColorJitter(0, 0, 0, hue=0.1)],
        "PCAColorNoise(1)": [data.PCAColorNoise(1.0).fit(images)],
        "Cutout(80)": [data.Cutout(80)],
        "MixUp(1)": [data.MixUp(1.0, num_classes=2)],
        "CutMix(1)": [data.CutMix(1.0, num_classes=2)],
        "all geometry\nand colour": [
            data.RandomFlip(), data.RandomResizedCrop(SIZE, scale=(0.4, 1.0)), data.RandomRotation(15),
            data.RandomShear(10), data.LensDistortion(), data.ColorJitter(0.3, 0.3, 0.4, 0.03),
        ],
        "Standardize('image', False)\nof many crops, + 0.5": [data.Standardize("image", scale=False).fit(many)],
    }  # fmt: skip


def draw(augment, images, number):
    """Returns both photographs in their draw of a number, and the temple's share of each."""
    # Two at a time, so that the mixing operations mix each with the other one.
    keys = data.make_keys(SEED, number, tf.range(2))
    if augment.mixes:
        drawn, labels = augment(images, keys, labels=np.arange(2))
        return drawn.numpy(), labels.numpy()[:, 0]
    return augment(images, keys).numpy(), None


def gallery(images, rows):
    width = 2 * NUM_DRAWS + 1
    figure, axes = plt.subplots(
        len(rows), width, figsize=(1.15 * width + 0.7, 1.15 * len(rows)), squeeze=False, layout="constrained",
        gridspec_kw={"width_ratios": [1.5] + [1] * (width - 1)},
    )  # fmt: skip
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, hspace=0.02, wspace=0.02)
    for row, (title, chain) in zip(axes, rows.items()):
        augment = data.Augment(chain)
        # What isn't random looks alike in all draws.
        is_random = any(operation.random for operation in chain)
        row[0].text(1, 0.5, title, ha="right", va="center", fontsize=9, transform=row[0].transAxes)
        for axis in row:
            axis.axis("off")
        for number in range(NUM_DRAWS if is_random else 1):
            drawn, temple = draw(augment, images, number)
            for which in range(2):
                axis = row[1 + number + which * NUM_DRAWS]
                image = drawn[which]
                axis.imshow(np.clip(image + 0.5, 0, 1) if image.min() < 0 else image)
                if temple is not None:
                    axis.text(
                        6, SIZE - 10, f"{temple[which]:.0%} temple", fontsize=7,
                        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5, "alpha": 0.8},
                    )  # fmt: skip
    figure.suptitle("Operations of augmentation, several draws each", fontsize=13, fontweight="bold", color="0.2")
    return figure


def ten_crop(image):
    size = SIZE * 3 // 4
    views = np.asarray(data.TenCrop(size)(image[None]))[:, 0]
    names = ["upper left", "upper right", "lower left", "lower right", "centre"]
    figure, axes = plt.subplots(2, 6, figsize=(11, 4.3), layout="constrained")
    titles = names + [f"{name}, mirrored" for name in names]
    for number, (axis, view, title) in enumerate(zip(axes[:, 1:].ravel(), views, titles)):
        axis.imshow(view)
        axis.set_title(title, fontsize=9, color=f"C{number % 5}")
    for axis, title in zip(axes[:, 0], (f"the image, {SIZE}x{SIZE}", "the five places")):
        axis.imshow(image)
        axis.set_title(title, fontsize=9)
    far = SIZE - size
    for number, place in enumerate(((0, 0), (far, 0), (0, far), (far, far), (far / 2, far / 2))):
        axes[1, 0].add_patch(
            plt.Rectangle(place, size - 1, size - 1, fill=False, edgecolor=f"C{number}", linewidth=1.5)
        )
    for axis in axes.ravel():
        axis.axis("off")
    figure.suptitle(
        f"TenCrop({size}): five places and their mirror images", fontsize=12, fontweight="bold", color="0.2"
    )
    return figure


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="three rows only")
    smoke = parser.parse_args().smoke
    images = photographs()
    rows = operations(images)
    OUTPUT.mkdir(exist_ok=True)
    if smoke:
        rows = dict(list(rows.items())[:3])
    for name, figure in (("augment_gallery", gallery(images, rows)), ("ten_crop", ten_crop(images[0]))):
        path = OUTPUT / f"{name}.png"
        figure.savefig(path, dpi=60 if smoke else 110)
        print("Saved", path)


if __name__ == "__main__":
    main()
