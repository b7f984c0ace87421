"""Transfer of the network trained on ImageNet: to photographs, which are like its data, and to digits, which aren't."""

import functools
import pathlib
import sys

import _claims_training as training
import keras
import numpy as np
from _claims import claim
from keras import layers

from kregkit.transfer import linear_probe, replace_head, unfreeze

SIZE, STEPS, BATCH_SIZE, NUM_TEST = 64, 60, 20, 480
LITTLE, MORE = 5, 40
STAGES = ["block_2", "block_4", "block_10", "pool"]
# Up to here the network stays frozen: what these layers make of the images is computed once.
FROZEN = {"few": "block_13", "many": "block_2"}
# What is tuned: learning rates, and the probe's penalty, which few examples choose for themselves by cross-validation.
RATES = {"few": (3e-5, 1e-4, 3e-4), "many": (3e-5, 1e-4, 3e-4), "scratch": (1e-3, 3e-3), "top": (0.01, 0.1)}


@functools.cache
def body():
    """Returns EfficientNet-Lite0 up to its averaged features, for small images."""
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "examples"))
    from _imagenet import efficientnet_lite0

    return efficientnet_lite0(input_shape=(SIZE, SIZE, 3), include_top=False)


@functools.cache
def _stage_features():
    """Returns the network from images to the averaged features of all stages, side by side."""
    outputs = [body().get_layer(name).output for name in STAGES]
    averaged = [x if len(x.shape) == 2 else layers.GlobalAveragePooling2D()(x) for x in outputs]
    return keras.Model(body().input, layers.Concatenate()(averaged)), [x.shape[-1] for x in outputs]


@functools.cache
def _stages():
    """Returns a model that takes these features apart again, for `linear_probe` to choose among."""
    _, widths = _stage_features()
    inputs = keras.Input((sum(widths),))
    ends = np.cumsum(widths)
    parts = [layers.Identity(name=name)(inputs[:, end - width : end]) for name, width, end in zip(STAGES, widths, ends)]
    return keras.Model(inputs, layers.Concatenate()(parts))


@functools.cache
def _bottom(way):
    """Returns the layers that stay frozen when a few or many are fine-tuned, or None from scratch."""
    return keras.Model(body().input, body().get_layer(FROZEN[way]).output) if way in FROZEN else None


@functools.lru_cache(maxsize=16)
def _examples(way, task, per_class, seed, part):
    """Returns what the layers that a way trains get of a part's images, and the labels."""
    x, y = TASKS[task][0](seed, per_class, part)
    frozen = _stage_features()[0] if way == "stages" else _bottom(way)
    return x if frozen is None else frozen.predict(x, batch_size=120, verbose=0), y


@functools.cache
def _photographs():
    from sklearn.datasets import load_sample_images

    return [image.astype("float32") for image in load_sample_images().images]


def photograph_cells(seed, per_class, part):
    """Returns crops of 12 cells of scikit-learn's two photographs, and which cell each is from.

    A cell is a chessboard of 4 x 4 tiles. Crops to train on lie within its eight black tiles, those to tune on within
    four of its white ones, and those to test on within the other four, so that no pixel is in two parts.
    """
    rng = np.random.default_rng([seed, part == "train"])
    crops, labels = [], []
    for label in range(12):
        image, row, column = _photographs()[label // 6], label % 6 // 3, label % 3
        height, width = image.shape[0] // 2, image.shape[1] // 3
        tile = min(height, width) // 4
        for _ in range(per_class):
            size, (down, half) = rng.integers(tile - 12, tile), rng.integers((4, 2))
            if part != "train":
                half = (down + (part == "test")) % 2
            right = 2 * half + (down + (part != "train")) % 2
            top = row * height + down * tile + rng.integers(0, tile - size)
            left = column * width + right * tile + rng.integers(0, tile - size)
            crops.append(keras.ops.image.resize(image[top : top + size, left : left + size], (SIZE, SIZE)))
            labels.append(label)
    return np.stack([keras.ops.convert_to_numpy(crop) for crop in crops]), np.array(labels)


def digits(seed, per_class, part):
    """Returns MNIST's digits as colour images; to train on from the pool, to test on from the test digits."""
    x, y, x_test, y_test = training.mnist()
    rng = np.random.default_rng([seed, part == "train"])
    x, y = (x, y) if part == "train" else (x[1000:], y[1000:]) if part == "tune" else (x_test, y_test)
    # The first half of the pool trains and the second tunes.
    chosen = np.concatenate(
        [
            rng.permutation(np.flatnonzero(y[:1000] == label if part == "train" else y == label))[:per_class]
            for label in range(10)
        ]
    )
    large = keras.ops.image.resize(x[chosen], (SIZE, SIZE))
    return 255 * np.repeat(keras.ops.convert_to_numpy(large), 3, axis=-1), y[chosen]


TASKS = {"photographs": (photograph_cells, 12), "digits": (digits, 10)}


@functools.cache
def _network(way, classes):
    """Returns a compiled network and the values that it starts from."""
    if way == "scratch":
        # Small enough for so few images, as one would choose it without pretrained weights.
        stack = [keras.Input((SIZE, SIZE, 3)), layers.Rescaling(1 / 128, -1)]
        for channels, stride in ((16, 2), (32, 1), (64, 1)):
            stack += [
                layers.Conv2D(channels, 3, stride, padding="same", use_bias=False),
                layers.BatchNormalization(momentum=0.9),
            ]
            stack += [layers.ReLU(), layers.MaxPooling2D()]
        model = keras.Sequential([*stack, layers.GlobalAveragePooling2D(), layers.Dense(classes)])
    else:
        top = keras.Model(_bottom(way).output, body().output)
        model = replace_head(top, num_classes=classes)
        unfreeze(model)
        # So few steps don't bring the moving statistics up to new weights: they stay, as fine-tuning wants them.
        for layer in model.layers:
            if isinstance(layer, layers.BatchNormalization):
                layer.trainable = False
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss, steps_per_execution=20, jit_compile=False)
    model.optimizer.build(model.trainable_variables)
    variables = [*model.variables, *model.optimizer.variables]
    return model, [(variable, keras.ops.convert_to_numpy(variable)) for variable in variables]


def _fitted(way, x, y, classes, rate, seed, steps, head=None):
    model, values = _network(way, classes)
    for variable, value in values:
        variable.assign(value)
    keras.utils.set_random_seed(seed)
    if way == "scratch":
        for layer in model.layers:
            if hasattr(layer, "kernel"):
                layer.kernel.assign(keras.initializers.GlorotUniform(seed)(layer.kernel.shape))
    else:
        model.layers[-1].set_weights(head)
    model.optimizer.learning_rate = rate
    rng = np.random.default_rng(seed)
    count = steps * BATCH_SIZE
    order = np.concatenate([rng.permutation(len(x)) for _ in range(-(-count // len(x)))])[:count]
    model.fit(x[order], y[order], BATCH_SIZE, 1, 0, shuffle=False)
    return model


def _probe(stages, task, per_class, seed, lab, rate=None):
    """Returns a linear classifier on the features of the best of these stages."""
    penalty = None if per_class == LITTLE else rate or _rate("top", task, per_class, lab)
    return linear_probe(
        _stages(), _examples("stages", task, per_class, seed, "train"), layers=stages, penalty=penalty, seed=seed
    ).model


def _error(way, task, per_class, seed, lab, rate=None, part="test"):
    classes = TASKS[task][1]
    count = 4 if lab.smoke else NUM_TEST // classes
    if way in ("top", "stages"):
        model = _probe(STAGES if way == "stages" else ["pool"], task, per_class, seed, lab, rate)
        inputs, y = _examples("stages", task, count, seed, part)
    else:
        # Equal budgets of steps; the small network's are cheaper, so it gets five times as many.
        steps = 20 if lab.smoke else 5 * STEPS if way == "scratch" else STEPS
        rate = rate or _rate(way, task, per_class, lab)
        # Fine-tuning starts from the probe, as `kregkit.transfer.fine_tune` does: a head at random spoils the body.
        head = None if way == "scratch" else _probe(["pool"], task, per_class, seed, lab).layers[-1].get_weights()
        model = _fitted(way, *_examples(way, task, per_class, seed, "train"), classes, rate, seed, steps, head)
        inputs, y = _examples(way, task, count, seed, part)
    return training.error(model.predict(inputs, batch_size=120, verbose=0), y)


def _rate(way, task, per_class, lab):
    key = f"transfer, {way}, {task}, {per_class} per class"
    if key not in lab.found:
        rates = RATES[way][:1] if lab.smoke else RATES[way]
        scores = {rate: _error(way, task, per_class, training.TUNING_SEED, lab, rate, "tune") for rate in rates}
        lab.note(key, rate=min(scores, key=scores.get), errors={f"{rate:g}": score for rate, score in scores.items()})
    return lab.found[key]["rate"]


_known = {}


def _once(*key, lab):
    if key not in _known:
        _known[key] = _error(*key, lab)
    return _known[key]


def register(group):
    """Registers the claims of the lecture's 2 x 2 table, each the recommended way against another."""
    names = {
        "top": "probe", "stages": "probe, best stage", "few": "few layers", "many": "many layers",
        "scratch": "from scratch",
    }  # fmt: skip
    few, many = "fine-tuning a few layers beats", "fine-tuning many layers beats"
    table = (
        (
            "little_similar",
            f"photographs, {LITTLE} a class: a linear probe beats training from scratch",
            "top",
            "scratch",
        ),
        ("more_similar", f"photographs, {MORE} a class: {few} the probe", "few", "top"),
        ("more_scratch", f"photographs, {MORE} a class: {few} training from scratch", "few", "scratch"),
        (
            "little_different",
            f"digits, {LITTLE} a class: a probe on the best stage beats one on the last",
            "stages",
            "top",
        ),
        ("more_different", f"digits, {MORE} a class: {many} a few", "many", "few"),
        ("different_scratch", f"digits, {MORE} a class: {many} training from scratch", "many", "scratch"),
    )

    def add(name, says, first, second):
        task, per_class = says.split(",")[0], LITTLE if "little" in name else MORE

        @claim(f"transfer_{name}", says, group, (names[first], names[second]), seeds=4)
        def measure(seed, lab):
            return tuple(_once(way, task, per_class, seed, lab=lab) for way in (first, second))

    for row in table:
        add(*row)
