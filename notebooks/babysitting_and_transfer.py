# %% [markdown]
# # Babysitting and transfer
#
# First a network that doesn't learn is mended step by step. Then one that has learned five digits is taught five others
# from fifty images. `examples/babysit.py` and `examples/transfer_digits.py` are the long versions.

# %%
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import matplotlib.pyplot as plt
import numpy as np

from kregkit import plots
from kregkit.callbacks import UpdateRatio
from kregkit.data import digits
from kregkit.diagnostics import diagnose_curves, learning_rate_range, preflight
from kregkit.search import Space, build_and_fit, log_uniform, search
from kregkit.transfer import GradualUnfreeze, digits_backbone, fine_tune, linear_probe, recommend, replace_head

x, y = digits("train", as_arrays=True)
x_test, y_test = digits("test", as_arrays=True)

# %% [markdown]
# ## A network that doesn't learn
#
# Its pixels aren't scaled, the loss takes logits for probabilities, and the learning rate is far too high.


# %%
def build(from_logits, rate):
    keras.utils.set_random_seed(0)
    hidden = [keras.layers.Dense(64, "tanh", name=f"hidden_{level}") for level in (1, 2, 3)]
    top = keras.layers.Dense(10, name="top")
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), *hidden, top])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits)
    model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
    return model


raw = x.astype("float32")
checks = ["input_statistics", "initial_loss", "signal_flow", "learning_rate", "update_ratio"]
preflight(build(from_logits=False, rate=1.0), (raw, y), checks, verbose=0)

# %% [markdown]
# Mend the first thing that it names, and ask again. A fault that one check finds explains what later ones find.

# %%
mean, deviation = raw.mean(), raw.std()
scaled, scaled_test = (raw - mean) / deviation, (x_test - mean) / deviation
report = preflight(build(from_logits=False, rate=1.0), (scaled, y), checks, verbose=0)
print(report.faults)

report = preflight(build(from_logits=True, rate=1.0), (scaled, y), checks, verbose=0)
print(report.faults)

# %% [markdown]
# What is left is the rate. A sweep finds one to start from.

# %%
found = learning_rate_range(build(from_logits=True, rate=1e-3), (scaled, y), steps=80)
figure, axes = plt.subplots(figsize=(5, 3))
axes = found.plot(axes)

# %%
model = build(from_logits=True, rate=found.suggestion)
preflight(model, (scaled, y), checks, verbose=0)

# %% [markdown]
# Is another rate better after training for a while? `search` draws rates on a log scale and compares.


# %%
def from_parameters(parameters):
    return build(from_logits=True, rate=parameters["rate"])


train = build_and_fit(from_parameters, (scaled, y), (scaled_test, y_test))
space = Space(rate=log_uniform(1e-4, 1e-1))
search(train, space, trials=6, epochs=2)

# %% [markdown]
# ## While it trains, and afterwards
#
# `UpdateRatio` logs how far each layer's weights move in a step, beside their size: about 0.001 is healthy.

# %%
fit = {"epochs": 10, "validation_data": (scaled_test, y_test), "verbose": 0}
history = model.fit(scaled, y, callbacks=[UpdateRatio(every=10)], **fit)
for name, values in history.history.items():
    if name.startswith("update_ratio"):
        print(f"{name}: {values[0]:.1e} at first, {values[-1]:.1e} at last")
diagnose_curves(history)

# %% [markdown]
# ## Start from another network's weights
#
# A small convolutional network knows the digits 0 to 4. It is to learn 5 to 9 from fifty images.

# %%
backbone = digits_backbone(epochs=6)
new = y > 4
few, few_labels = raw[new][:50] / 255, y[new][:50] - 5
many, many_labels = x_test[y_test > 4].astype("float32") / 255, y_test[y_test > 4] - 5
print(len(few), "to train on,", len(many), "to test on")

# %% [markdown]
# What can a linear classifier read from each stage?

# %%
stages = ["relu_1", "relu_2", "relu_3", "relu_4"]
probe = linear_probe(backbone, (few, few_labels), validation=(many, many_labels), layers=stages)
errors = {layer: 100 * (1 - accuracy) for layer, accuracy in probe.accuracy.items()}
figure, axes = plt.subplots(figsize=(5, 2.6))
axes = plots.errors(errors, axes)

# %% [markdown]
# A plan with its reasons, and its execution in one `fit`:

# %%
plan = recommend(num_examples=len(few), num_classes=5, similarity="similar")
plan

# %%
tuned = fine_tune(backbone, (few, few_labels), (many, many_labels), plan, verbose=0)

# %% [markdown]
# The same by hand: a new head first, then the layers below it thaw one after another.

# %%
by_hand = replace_head(backbone, num_classes=5)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
by_hand.compile(keras.optimizers.Adam(1e-2), loss, metrics=["accuracy"])
thaw = GradualUnfreeze([(0, "head"), (10, "conv_4"), (15, "conv_1")], learning_rate_factor=0.1)
by_hand.fit(few, few_labels, batch_size=16, epochs=20, callbacks=[thaw], verbose=0)

scratch = keras.models.clone_model(by_hand)
scratch.trainable = True
scratch.compile(keras.optimizers.Adam(1e-2), loss, metrics=["accuracy"])
scratch.fit(few, few_labels, batch_size=16, epochs=20, verbose=0)

ways = {"from scratch": scratch, "the plan": tuned.model, "by hand": by_hand}
wrong = {name: 100 * np.mean(np.argmax(one(many), axis=-1) != many_labels) for name, one in ways.items()}
figure, axes = plt.subplots(figsize=(5, 2))
axes = plots.errors(wrong, axes, baseline="from scratch")

# %% [markdown]
# Frozen features alone do worst here, and fifty images of digits are enough to learn them from nothing: measure, before
# you believe in a plan. One draw is one draw: `examples/transfer_digits.py` draws the error against the number of
# images, as means over seeds with their intervals. The guides: [diagnostics](../docs/diagnostics.md),
# [transfer](../docs/transfer.md).
