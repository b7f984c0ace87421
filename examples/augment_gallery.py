"""Draws every augmentation six times, and ten-crop's ten views, on two real photographs.

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
    return {
        "RandomFlip('both')": [data.RandomFlip("both")],
        "RandomCrop(28)": [data.RandomCrop(28)],
        "RandomResizedCrop": [data.RandomResizedCrop(SIZE)],
        "RandomTranslation(0.2, 0.2)": [data.RandomTranslation(0.2, 0.2)],
        "RandomRotation(30)": [data.RandomRotation(30)],
        "RandomStretch(0.4)": [data.RandomStretch(0.4)],
        "RandomShear(20)": [data.RandomShear(20)],
        "LensDistortion(0.3)": [data.LensDistortion(0.3)],
        "RandomRotation, reflect": [data.RandomRotation(30, fill="reflect")],
        "ColorJitter(0.5, 0.5, 0.8)": [data.ColorJitter(0.5, 0.5, 0.8)],
        "ColorJitter hue 0.1": [data.ColorJitter(0, 0, 0, hue=0.1)],
        "PCAColorNoise(1)": [data.PCAColorNoise(1.0).fit(images)],
        "Cutout(80)": [data.Cutout(80)],
        "MixUp(1)": [data.MixUp(1.0, num_classes=2)],
        "CutMix(1)": [data.CutMix(1.0, num_classes=2)],
        "all geometry and colour": [
            data.RandomFlip(), data.RandomResizedCrop(SIZE, scale=(0.4, 1.0)), data.RandomRotation(15),
            data.RandomShear(10), data.LensDistortion(), data.ColorJitter(0.3, 0.3, 0.4, 0.03),
        ],
        "Standardize('image'), shown /4 + 0.5": [data.Standardize("image").fit(images)],
    }  # fmt: skip


def gallery(images, rows):
    # The temple and the flower take turns, so that the mixing operations have two different ones to mix.
    batch = images[np.arange(NUM_DRAWS) % 2]
    keys = data.make_keys(SEED, 0, tf.range(NUM_DRAWS))
    labels = np.arange(NUM_DRAWS) % 2
    width = NUM_DRAWS + 1
    figure, axes = plt.subplots(len(rows), width, figsize=(1.55 * width, 1.62 * len(rows)), squeeze=False)
    for row, (title, chain) in zip(axes, rows.items()):
        augment = data.Augment(chain)
        shown = augment(batch, keys, labels=labels) if augment.mixes else (augment(batch, keys), None)
        drawn = shown[0].numpy()
        if drawn.min() < 0:
            drawn = np.clip(drawn / 4 + 0.5, 0, 1)
        row[0].text(0.98, 0.5, title.replace("(", "\n(", 1), ha="right", va="center", fontsize=9)
        for axis, image in zip(row[1:], drawn):
            axis.imshow(image)
        if shown[1] is not None:
            for axis, label in zip(row[1:], shown[1].numpy()):
                axis.set_title(f"{label[0]:.0%} temple", fontsize=7, pad=2)
        for axis in row:
            axis.axis("off")
    figure.tight_layout(pad=0.3)
    return figure


def ten_crop(image):
    views = np.asarray(data.TenCrop(SIZE * 3 // 4)(image[None]))[:, 0]
    names = ["upper left", "upper right", "lower left", "lower right", "centre"]
    figure, axes = plt.subplots(2, 6, figsize=(11, 4.4))
    for axis, view, name in zip(axes[:, 1:].ravel(), views, names + [f"{name}, mirrored" for name in names]):
        axis.imshow(view)
        axis.set_title(name, fontsize=9)
    axes[0, 0].imshow(image)
    axes[0, 0].set_title(f"the image, {SIZE}x{SIZE}", fontsize=9)
    for axis in axes.ravel():
        axis.axis("off")
    figure.suptitle(f"TenCrop({SIZE * 3 // 4})", fontsize=11)
    figure.tight_layout(pad=0.5)
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
