"""The noise of a model's layers, drawn at inference time by where it is used, not by when."""

import contextlib
import math

import numpy as np
import tensorflow as tf
from keras import layers

from kregkit.layers import (
    DropConnect,
    FractionalMaxPooling1D,
    FractionalMaxPooling2D,
    FractionalMaxPooling3D,
    StochasticDepth,
)

_PHILOX = 1


class NotFoldableError(ValueError):
    """A layer draws noise that all rows of a batch share, so that several draws can't share a batch."""


class Draws:
    """Random numbers for one pass over `k` draws of `B` examples, folded into `k * B` rows, the draw first.

    Each number is a function of the seed, the place in the model, the draw and the example alone, so that a result
    doesn't depend on how draws and examples are divided into passes. This is what counter-based generators are for:
    Philox's key is the seed and the place, and its 128-bit counter holds the draw above and the example below.

    Args:
        seed: Integer.
        draws: Integer tensor `(k,)`, the draws' numbers. `k` is static.
        batch: Integer or scalar tensor, `B`.
        start: Integer scalar tensor, the first example's number in the data set.
        shared: Boolean, whether all examples meet the same noise.
    """

    def __init__(self, seed, draws, batch, start, shared=False):
        self.seed, self.draws, self.batch, self.start = seed, draws, batch, start
        self.shared = shared
        self.num_draws = draws.shape[0]
        self._calls = {}

    def key(self, place):
        """Returns a new 64-bit key for one more use of the noise of `place`, an integer."""
        call = self._calls[place] = self._calls.get(place, -1) + 1
        words = np.random.SeedSequence([self.seed, place, call]).generate_state(1, np.uint64)
        return int(words[0])

    def uniform(self, place, inputs, noise_shape=None):
        """Returns uniform numbers in [0, 1), float32, shaped to be combined with `inputs`.

        Args:
            place: Integer that identifies the layer.
            inputs: Tensor with leading axis `k * B`, or a multiple of it where examples were split.
            noise_shape: As in `keras.layers.Dropout`: `None` entries are those of `inputs`, 1 is broadcast. On the
                first axis, 1 shares the noise among the examples. Defaults to the shape of `inputs`.
        """
        return self._random(tf.raw_ops.StatelessRandomUniformV2, place, inputs, noise_shape)

    def normal(self, place, inputs, noise_shape=None):
        """Returns standard normal numbers; arguments as in `uniform`."""
        return self._random(tf.raw_ops.StatelessRandomNormalV2, place, inputs, noise_shape)

    def uniform_of_shape(self, place, shape, whole_batch=False):
        """Returns uniform numbers of a shape: the first axis is the rows', unless it is of another size or none.

        With `whole_batch`, it isn't the rows' in any case.
        """
        rows = self.num_draws * self.batch
        first = shape[0] if len(shape) else 1
        whole_batch = whole_batch or not len(shape) or (isinstance(first, int) and first != rows)
        if whole_batch and self.num_draws > 1:
            raise NotFoldableError(f"noise of shape {tuple(shape)}, for a whole batch")
        lead = [1, *shape] if whole_batch else [rows, *shape[1:]]
        numbers = self._random(
            tf.raw_ops.StatelessRandomUniformV2, place, tf.broadcast_to(0.0, tf.stack(lead)), None, whole_batch
        )
        return numbers[0] if whole_batch else numbers

    def seed_of_pass(self, place):
        """Returns a seed `(2,)` for `keras.random`; those of successive examples follow each other."""
        if self.num_draws > 1:
            raise NotFoldableError("noise drawn for a whole batch")
        key = self.key(place) & 0xFFFFFFFF
        words = tf.stack([key + self.start, self.draws[0]])
        return tf.cast(words % 2**32, "uint32")

    def _random(self, operation, place, inputs, noise_shape, unbatched=None):
        k = self.num_draws
        dynamic = tf.shape(inputs)
        shape = [dynamic[axis] if size is None else size for axis, size in enumerate(inputs.shape)]
        noise = [full if own is None else own for own, full in zip(noise_shape or [None] * len(shape), shape)]
        whole_batch = noise_shape is not None and noise_shape[0] == 1
        if unbatched is None:
            unbatched = inputs.shape[0] == 1 and not (k == 1 and isinstance(self.batch, int) and self.batch == 1)
        if unbatched:
            if k > 1:
                raise NotFoldableError(f"noise on a tensor without a batch axis, of shape {tuple(inputs.shape)}")
            whole_batch = True
        shared = self.shared or whole_batch
        rows = 1 if shared else self.batch
        rest = _product(noise[1:])
        if not whole_batch:
            # Examples that a layer has split, into windows or time steps, are several rows each.
            rest = rest * (shape[0] // (k * self.batch))
        groups = (rest + 3) // 4
        counter = tf.zeros((), "int64") if shared else self.start * tf.cast(groups, "int64")
        key = tf.constant([self.key(place)], "uint64")
        blocks = [
            operation(
                shape=tf.stack([rows, 4 * groups]),
                key=key,
                counter=tf.cast(tf.stack([counter, self.draws[index]]), "uint64"),
                alg=_PHILOX,
            )[:, :rest]
            for index in range(k)
        ]
        numbers = tf.stack(blocks)
        if unbatched:
            return tf.reshape(numbers, noise)
        if shared:
            numbers = tf.broadcast_to(numbers, tf.stack([k, self.batch, rest]))
        lead = k * self.batch if whole_batch else shape[0]
        numbers = tf.reshape(numbers, tf.stack([lead, *noise[1:]]))
        numbers.set_shape([inputs.shape[0], *[n if isinstance(n, int) else None for n in noise[1:]]])
        return numbers


def _product(sizes):
    static = math.prod(size for size in sizes if isinstance(size, int))
    for size in sizes:
        if not isinstance(size, int):
            static = static * size
    return static


def _keep(numbers, rate, dtype):
    """Returns an inverted dropout mask: 0 with probability `rate`, else `1 / (1 - rate)`."""
    if rate >= 1:
        return tf.zeros(tf.shape(numbers), dtype)
    return tf.cast(numbers >= rate, dtype) * tf.cast(1.0 / (1.0 - rate), dtype)


def _dropout(layer, draws, place, inputs):
    if layer.rate == 0:
        return inputs
    return inputs * _keep(draws.uniform(place, inputs, layer.noise_shape), layer.rate, inputs.dtype)


def _spatial_dropout(layer, draws, place, inputs):
    if layer.rate == 0:
        return inputs
    first = getattr(layer, "data_format", "channels_last") == "channels_first"
    ones = [1] * (inputs.shape.rank - 2)
    shape = [None, None, *ones] if first else [None, *ones, None]
    return inputs * _keep(draws.uniform(place, inputs, shape), layer.rate, inputs.dtype)


def _gaussian_dropout(layer, draws, place, inputs):
    if layer.rate == 0:
        return inputs
    scale = math.sqrt(layer.rate / (1.0 - layer.rate))
    return inputs * tf.cast(1.0 + scale * draws.normal(place, inputs), inputs.dtype)


def _gaussian_noise(layer, draws, place, inputs):
    if layer.stddev == 0:
        return inputs
    return inputs + tf.cast(layer.stddev * draws.normal(place, inputs), inputs.dtype)


def _alpha_dropout(layer, draws, place, inputs):
    if layer.rate == 0:
        return inputs
    # What a SELU saturates at; the affine map brings mean 0 and variance 1 back (Klambauer et al. 2017).
    low = -1.7580993408473766
    scale = ((1.0 - layer.rate) * (1.0 + layer.rate * low**2)) ** -0.5
    keep = draws.uniform(place, inputs, layer.noise_shape) >= layer.rate
    kept = tf.where(keep, inputs, tf.cast(low, inputs.dtype))
    return tf.cast(scale, inputs.dtype) * kept + tf.cast(-scale * low * layer.rate, inputs.dtype)


_POOLING = (FractionalMaxPooling1D, FractionalMaxPooling2D, FractionalMaxPooling3D)
# Unbiased noise, for which inference gives the mean, and kregkit's own forms.
_EXPECTED = (
    layers.Dropout,
    layers.GaussianDropout,
    layers.GaussianNoise,
    DropConnect,
    StochasticDepth,
)

# The first kind that matches a layer draws its noise.
_KERAS = [
    ((layers.SpatialDropout1D, layers.SpatialDropout2D, layers.SpatialDropout3D), _spatial_dropout),
    (layers.Dropout, _dropout),
    (layers.GaussianDropout, _gaussian_dropout),
    (layers.GaussianNoise, _gaussian_noise),
    (layers.AlphaDropout, _alpha_dropout),
]


def _rate(layer):
    return getattr(layer, "rate", None) or getattr(layer, "stddev", None)


def _follows_protocol(layer):
    """Returns whether the layer is one of kregkit's: `draw_call` draws, by `uniform(shape)` and `seed_generator`."""
    return hasattr(layer, "draw_call") and hasattr(layer, "seed_generator")


def _is_recurrent_cell(layer):
    return hasattr(layer, "get_recurrent_dropout_mask") and (layer.dropout > 0 or layer.recurrent_dropout > 0)


def is_noisy(layer):
    """Returns whether the layer is of a kind whose noise can be drawn here, and has any."""
    if _is_recurrent_cell(layer) or _follows_protocol(layer):
        return True
    return any(isinstance(layer, kind) for kind, _ in _KERAS) and bool(_rate(layer))


def flat_layers(model):
    """Returns all of a model's layers, at any depth, each once, in a fixed order."""
    return list({id(layer): layer for layer in model._flatten_layers()}.values())


def select_noise(model, noise):
    """Returns the places, in `flat_layers(model)`, of the layers whose noise is to be drawn.

    Args:
        model: A built Keras model.
        noise: `"all"`, `None`, or a list of layers and layer types.

    Raises:
        ValueError: `noise` is none of these, or an entry of the list is not in the model or has no noise.
    """
    if noise is None:
        return []
    every = flat_layers(model)
    if isinstance(noise, str):
        if noise != "all":
            raise ValueError(
                f"`noise` must be 'all', None or a list of layers and layer types. Received: noise={noise!r}"
            )
        return [place for place, layer in enumerate(every) if is_noisy(layer)]
    chosen = set()
    for one in noise:
        matches = [layer for layer in every if layer is one or (isinstance(one, type) and isinstance(layer, one))]
        # A recurrent layer's noise is its cells'.
        inside = {id(part) for layer in matches for part in layer._flatten_layers()}
        found = [
            place
            for place, layer in enumerate(every)
            if is_noisy(layer) and (layer in matches or (id(layer) in inside and _is_recurrent_cell(layer)))
        ]
        if not found:
            raise ValueError(
                f"Every entry of `noise` must be a noisy layer of model {model.name!r}, or the type of some. "
                f"Received: noise={noise!r}, of which {one!r} is not"
            )
        chosen.update(found)
    return sorted(chosen)


@contextlib.contextmanager
def drawing(model, places, draws):
    """Makes the layers at `places` draw their noise from `draws`, for the block; everything else stays as it was."""
    every = flat_layers(model)
    with contextlib.ExitStack() as stack:
        for place in places:
            layer = every[place]
            if _is_recurrent_cell(layer):
                _draw_masks(stack, layer, every, draws, place)
            elif _follows_protocol(layer):
                _draw_by_protocol(stack, layer, draws, place)
            else:
                draw = next(draw for kind, draw in _KERAS if isinstance(layer, kind))
                stack.enter_context(_attribute(layer, "call", _call(layer, draw, draws, place)))
        yield


def _call(layer, draw, draws, place):
    def call(inputs, *arguments, training=None, **options):
        return draw(layer, draws, place, inputs)

    return call


@contextlib.contextmanager
def _attribute(thing, name, value):
    """Sets an attribute of one instance over its class's, for the block."""
    before = vars(thing).get(name)
    setattr(thing, name, value)
    try:
        yield
    finally:
        delattr(thing, name)
        if before is not None:
            setattr(thing, name, before)


def _draw_by_protocol(stack, layer, draws, place):
    """Gives one of kregkit's layers its noise from `draws`; see `kregkit.layers`."""
    changed = {}
    if isinstance(layer, StochasticDepth):
        # A coin per example and draw, whatever saves time in training.
        changed["mode"] = "sample"
    elif isinstance(layer, _POOLING):
        if layer.share == "batch":
            changed["share"] = "example"
    elif draws.num_draws > 1:
        raise NotFoldableError(f"{type(layer).__name__} draws for a whole batch")
    if isinstance(layer, DropConnect):
        changed["_factor"] = _masks_of_connections(layer, draws, place)
        if draws.shared:
            changed["mask"] = "batch"
    changed["call"] = lambda inputs, *arguments, training=None, **options: layer.draw_call(
        inputs, *arguments, training=False, **options
    )
    changed["uniform"] = lambda shape, **_: draws.uniform_of_shape(place, shape)
    for name, value in changed.items():
        stack.enter_context(_attribute(layer, name, value))
    stack.enter_context(_attribute(layer.seed_generator, "next", lambda ordered=True: draws.seed_of_pass(place)))


def _masks_of_connections(layer, draws, place):
    original = layer._factor

    def factor(shape, key, of="kernel"):
        # Not by the shape: a bias's, with its examples, may be the kernel's.
        kernel = of == "kernel"
        if kernel and layer.mask == "exact":
            return original(shape, key)
        numbers = draws.uniform_of_shape(place, shape, whole_batch=kernel or layer.mask == "batch")
        return _keep(numbers, layer.rate, layer.compute_dtype)

    return factor


@contextlib.contextmanager
def expecting(model, places):
    """Makes the layers at `places` give their noise's expectation by their own formula, for the block."""
    every = flat_layers(model)
    with contextlib.ExitStack() as stack:
        for place in places:
            if isinstance(every[place], DropConnect):
                stack.enter_context(_attribute(every[place], "inference", "gaussian"))
        yield


def check_expectations(model, places):
    """Raises `ValueError` for noise whose expectation inference doesn't compute, however linear what follows is."""
    every = flat_layers(model)
    without = sorted({type(every[place]).__name__ for place in places if not isinstance(every[place], _EXPECTED)})
    if without:
        raise ValueError(
            f"There is no analytic form for {', '.join(without)}: leave them out of `noise`, or average draws. "
            "Received: draws='analytic'"
        )


def _draw_masks(stack, cell, every, draws, place):
    """Gives a recurrent cell masks that hold for all steps of a sequence, as in training."""
    made = {}

    def mask(name, rate):
        def get(step_input):
            # An outer call makes the masks before the loop over time; inside it they must not be made anew.
            if rate > 0 and name not in made:
                count = getattr(cell, "dropout_mask_count", None)
                several = [_keep(draws.uniform(place, step_input), rate, step_input.dtype) for _ in range(count or 1)]
                made[name] = several if count else several[0]
            return made.get(name)

        return get

    def forget(name):
        return lambda: made.pop(name, None)

    original = cell.call

    def call(inputs, states, training=None, **options):
        return original(inputs, states, training=True, **options)

    for name, value in {
        "call": call,
        "get_dropout_mask": mask("input", cell.dropout),
        "get_recurrent_dropout_mask": mask("state", cell.recurrent_dropout),
        "reset_dropout_mask": forget("input"),
        "reset_recurrent_dropout_mask": forget("state"),
    }.items():
        stack.enter_context(_attribute(cell, name, value))
    for owner in every:
        # LSTM and GRU look at `training` themselves, to choose a kernel without dropout.
        if isinstance(owner, layers.RNN) and owner.cell is cell:
            stack.enter_context(_attribute(owner, "inner_loop", _training_loop(owner.inner_loop)))


def _training_loop(original):
    def inner_loop(sequences, initial_state, mask, training=None):
        return original(sequences, initial_state, mask, training=True)

    return inner_loop
