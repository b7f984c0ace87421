# %% [markdown]
# # Quickstart
#
# One small network on 1,437 real images of digits: checked, trained with two lists of callbacks, averaged and
# made an ensemble of. It runs in under a minute, without a network. `examples/quickstart.py` is the long version, with
# six seeds.

# %%
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import matplotlib.pyplot as plt

from kregkit import plots
from kregkit.callbacks import CosineDecay, PolyakAveraging, SnapshotEnsemble, Warmup, simulate
from kregkit.data import digits
from kregkit.diagnostics import preflight
from kregkit.inference import Ensemble, marginalize

x, y = digits("train", as_arrays=True)
x_test, y_test = digits("test", as_arrays=True)
x, x_test = x / 255.0, x_test / 255.0

figure, axes = plt.subplots(2, 8, figsize=(6, 1.7))
for axis, image, label in zip(axes.flat, x, y):
    axis.imshow(image[..., 0], cmap="gray_r")
    axis.set_title(label, fontsize=9)
    axis.axis("off")

# %% [markdown]
# An ordinary Keras model. Nothing in it is kregkit's.


# %%
def build(seed=1):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss, metrics=["accuracy"])
    return model


# %% [markdown]
# ## Look before you train
#
# `preflight` tries the compiled model on real batches. The model's weights are the same bits afterwards.

# %%
preflight(build(), (x, y), verbose=0)

# %% [markdown]
# ## Rates that multiply
#
# `simulate` shows the learning rate of every step, before you train.

# %%
rates = simulate([Warmup(1), CosineDecay()], epochs=15, steps_per_epoch=45, learning_rate=0.1)
figure, axes = plt.subplots(figsize=(5, 2.6))
axes = plots.learning_rate_curve(rates, axes, steps_per_epoch=45, label="warm-up x cosine")

# %% [markdown]
# ## Two lists of callbacks
#
# The same model, data and number of steps. The second list warms the rate up, lets it fall, and validates the Polyak
# average of the weights.

# %%
fit = {"epochs": 15, "validation_data": (x_test, y_test), "verbose": 0}
plain = build()
history = plain.fit(x, y, **fit)

kit = build()
kit_history = kit.fit(x, y, callbacks=[Warmup(1), CosineDecay(), PolyakAveraging(0.98)], **fit)

figure, axes = plt.subplots(figsize=(5, 3))
plots.error_curves(history, axes, label="plain", color="tab:gray", log=False)
axes = plots.error_curves(kit_history, axes, label="with kregkit", color="tab:blue", log=False)
limits = axes.set_ylim(0, 15)

# %% [markdown]
# One seed is one seed; the README's figures are means over five.

# %%
for name, model in (("plain", plain), ("with kregkit", kit)):
    print(f"{name}: {100 * (1 - model.evaluate(x_test, y_test, verbose=0)[1]):.2f} % of the test digits wrong")

# %% [markdown]
# ## Average the noise in place of switching it off
#
# The dropout of the trained network is drawn 64 times for each image, and the probabilities are averaged. Here are the
# digits on which the draws differ most and least.

# %%
averaged = marginalize(kit, draws=64, spread=True)
probabilities, spread = averaged.predict(x_test, verbose=0)
order = (-spread["mutual_information"]).argsort()
figure, axes = plt.subplots(2, 6, figsize=(6, 2.6), layout="constrained")
for axis, index in zip(axes.flat, [*order[:6], *order[-6:]]):
    axis.imshow(x_test[index, ..., 0], cmap="gray_r")
    axis.set_title(f"{y_test[index]}: {spread['mutual_information'][index]:.2f}", fontsize=9)
    axis.axis("off")

# %% [markdown]
# ## An ensemble out of one run
#
# The rate falls to nothing and jumps back in each of four cycles. The weights at each cycle's end are a member. In so
# short a run the last member is as good as all of them together; longer cycles make better members.

# %%
build().fit(x, y, epochs=16, callbacks=[SnapshotEnsemble("snapshots", cycles=4)], verbose=0)
ensemble = Ensemble.from_directory("snapshots")
ensemble.report((x_test, y_test))

# %% [markdown]
# It is one Keras model in one file.

# %%
ensemble.save("ensemble.keras")
print(keras.saving.load_model("ensemble.keras").predict(x_test, verbose=0).shape)

# %% [markdown]
# Next: [your own images](own_images.ipynb), [babysitting and transfer](babysitting_and_transfer.ipynb).
