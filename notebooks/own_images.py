# %% [markdown]
# # Your own images
#
# From a folder of photographs to a trained network: look at what the network will see, augment, train, and average over
# views. Replace `photographs` by your folder. The first cell makes one out of the two photographs that come with
# scikit-learn: of a temple and of a flower 24 tiles each to train on, from the left half of each picture, and 60 each
# to test on, from the right half.

# %%
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_sample_images

from kregkit import data, plots
from kregkit.callbacks import CosineDecay, PolyakAveraging, Warmup
from kregkit.inference import marginalize

rng = np.random.default_rng(1)
for name, photograph in zip(("temple", "flower"), load_sample_images().images):
    for split, (left, right) in {"train": (0, 320), "test": (320, 640)}.items():
        folder = pathlib.Path("photographs", split, name)
        folder.mkdir(parents=True)
        for number in range(24 if split == "train" else 60):
            row, column = rng.integers(0, 427 - 80), rng.integers(left, right - 80)
            tile = photograph[row : row + 80, column : column + 80]
            keras.utils.save_img(folder / f"{number:02d}.png", tile, scale=False)

# %% [markdown]
# The folder has a subfolder per split and in it one per class.

# %%
train_folder = data.image_folder("photographs", "train", cache=True)
test_folder = data.image_folder("photographs", "test", cache=True)
print(len(train_folder), "to train on,", len(test_folder), "to test on:", train_folder.class_names)

# %% [markdown]
# ## What the network will see
#
# A pipeline is a `tf.data.Dataset`. Each image's randomness comes from the seed, the epoch and the image, so any batch
# can be seen again. A preview shows a batch as it leaves the pipeline.
# With `training=False` what is random is left out: crops take the centre, colours stay.

# %%
operations = [data.RandomResizedCrop(32, scale=(0.3, 1.0)), data.RandomFlip(), data.ColorJitter(0.3, 0.3, 0.3)]
train = data.pipeline(train_folder, 8, operations, seed=1)
test = data.pipeline(test_folder, 120, operations, training=False)
data.preview(train, num=8)

# %% [markdown]
# ## Train, with and without augmentation


# %%
def build():
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((32, 32, 3))])
    for channels in (16, 32, 64):
        model.add(keras.layers.Conv2D(channels, 3, padding="same", use_bias=False))
        model.add(keras.layers.GroupNormalization(8))
        model.add(keras.layers.ReLU())
        model.add(keras.layers.MaxPooling2D())
    model.add(keras.layers.GlobalAveragePooling2D())
    model.add(keras.layers.Dense(2))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"])
    return model


plain = data.pipeline(train_folder, 8, [data.RandomResizedCrop(32)], seed=1, training=False)
histories = {}
for name, images in {"centre crops": plain, "augmented": train}.items():
    model = build()
    callbacks = [Warmup(1), CosineDecay(), PolyakAveraging(0.9)]
    fit = {"epochs": 12, "validation_data": test, "shuffle": False, "verbose": 0}
    histories[name] = model.fit(images, callbacks=callbacks, **fit)

figure, axes = plt.subplots(figsize=(5, 3))
for name, history in histories.items():
    axes = plots.error_curves(history, axes, label=name, log=False)

# %% [markdown]
# ## Average over views
#
# Each test image is looked at as it is and mirrored, and the probabilities are averaged.

# %%
mirrored = marginalize(model, views=data.Flips())
for name, predictor in {"one look": model, "two looks": mirrored}.items():
    scores = predictor.evaluate(test, verbose=0, return_dict=True)
    print(f"{name}: {100 * (1 - scores['accuracy']):.1f} % wrong, loss {scores['loss']:.3f}")

# %% [markdown]
# ## Which are wrong?

# %%
looked_at = [(images.numpy(), labels.numpy()) for images, labels in test]
images, labels = (np.concatenate(parts) for parts in zip(*looked_at))
probabilities = keras.ops.convert_to_numpy(keras.ops.softmax(mirrored.predict(images, verbose=0)))
worst = np.argsort(probabilities[np.arange(len(labels)), labels])[:5]
figure, axes = plt.subplots(1, 5, figsize=(4, 1.3), layout="constrained")
for axis, index in zip(axes, worst):
    axis.imshow(images[index])
    axis.set_title(f"{train_folder.class_names[labels[index]]}\n{probabilities[index, labels[index]]:.2f}", fontsize=9)
    axis.axis("off")

# %% [markdown]
# Next: [babysitting and transfer](babysitting_and_transfer.ipynb); all sources and operations are in the guide to
# [data](../docs/data.md).
