"""The noise of a model's layers, drawn at inference time."""

import contextlib

import tensorflow as tf
from keras import layers

from kregkit.inference._attention_noise import is_noisy_attention, weights_of_attention
from kregkit.inference._draws import NotFoldableError
from kregkit.inference._keras_noise import is_elementwise, keep, perturbed
from kregkit.inference._recurrent_noise import is_noisy_cell, masks_of_cell
from kregkit.layers import (
    DropConnect,
    FractionalMaxPooling1D,
    FractionalMaxPooling2D,
    FractionalMaxPooling3D,
    StochasticDepth,
)

_POOLING = (FractionalMaxPooling1D, FractionalMaxPooling2D, FractionalMaxPooling3D)
# Unbiased noise, for which inference gives the mean, and kregkit's own forms.
_EXPECTED = (
    layers.Attention,
    layers.Dropout,
    layers.GaussianDropout,
    layers.GaussianNoise,
    DropConnect,
    StochasticDepth,
)


def _follows_protocol(layer):
    """Returns whether the layer is one of kregkit's: `draw_call` draws, by `uniform(shape)` and `seed_generator`."""
    return hasattr(layer, "draw_call") and hasattr(layer, "seed_generator")


def is_noisy(layer):
    """Returns whether the layer is of a kind whose noise can be drawn here, and has any."""
    return is_noisy_cell(layer) or is_noisy_attention(layer) or _follows_protocol(layer) or is_elementwise(layer)


def flat_layers(model):
    """Returns all of a model's layers, at any depth, each once, in a fixed order."""
    return list({id(layer): layer for layer in model._flatten_layers()}.values())


def select_noise(models, noise):
    """Returns, per model, the places, in `flat_layers(model)`, of the layers whose noise is to be drawn.

    Args:
        models: List of built Keras models.
        noise: `"all"`, `None`, or a list of layers and layer types. One that has no noise of its own, such as a
            recurrent layer or a nested model, stands for all noise inside it.

    Raises:
        ValueError: `noise` is none of these, or an entry of the list is in none of the models or has no noise.
    """
    if noise is None:
        return [[] for _ in models]
    if isinstance(noise, str) and noise != "all":
        raise ValueError(f"`noise` must be 'all', None or a list of layers and layer types. Received: noise={noise!r}")
    every = [flat_layers(model) for model in models]
    if noise == "all":
        return [[place for place, layer in enumerate(own) if is_noisy(layer)] for own in every]
    chosen = [set() for _ in models]
    for one in noise:
        found = [_places_of(one, own) for own in every]
        if not any(found):
            names = ", ".join(sorted({repr(model.name) for model in models}))
            raise ValueError(
                f"Every entry of `noise` must be a noisy layer of model {names}, or the type of some. "
                f"Received: noise={noise!r}, of which {one!r} is not"
            )
        for places, more in zip(chosen, found):
            places.update(more)
    return [sorted(places) for places in chosen]


def _places_of(one, every):
    """Returns the places of the noise that a layer or a layer type stands for."""
    matches = [layer for layer in every if layer is one or (isinstance(one, type) and isinstance(layer, one))]
    meant = {id(part) for layer in matches for part in ([layer] if is_noisy(layer) else layer._flatten_layers())}
    return [place for place, layer in enumerate(every) if id(layer) in meant and is_noisy(layer)]


@contextlib.contextmanager
def drawing(model, places, draws, moved):
    """Makes the layers at `places` draw their noise from `draws`, for the block; everything else stays as it was.

    Args:
        model: A Keras model.
        places: Integers, as `select_noise` gives them.
        draws: `Draws`.
        moved: Dictionary from places to the layers behind whose results the noise is to be drawn instead.
    """
    every = flat_layers(model)
    with contextlib.ExitStack() as stack:
        for place in places:
            for change in _changes(every, place, draws, moved):
                stack.enter_context(_attribute(*change))
        yield


def _changes(every, place, draws, moved):
    """Yields `(thing, attribute, value)`, what to set so that a layer draws from `draws`."""
    layer = every[place]
    if is_noisy_cell(layer):
        yield from masks_of_cell(layer, every, draws, place)
    elif is_noisy_attention(layer):
        yield weights_of_attention(layer, draws, place)
    elif _follows_protocol(layer):
        yield from _changes_by_protocol(layer, draws, place)
    elif place in moved:
        behind = moved[place]
        original = behind.call
        yield layer, "call", lambda inputs, *_, **__: inputs
        yield (
            behind,
            "call",
            lambda *arguments, **options: perturbed(layer, draws, place, original(*arguments, **options)),
        )
    else:
        yield layer, "call", lambda inputs, *_, **__: perturbed(layer, draws, place, inputs)


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


def _changes_by_protocol(layer, draws, place):
    """Gives one of kregkit's layers its noise from `draws`; see `kregkit.layers`."""
    if isinstance(layer, StochasticDepth):
        # A coin per example and draw, whatever saves time in training.
        yield layer, "mode", "sample"
    elif isinstance(layer, _POOLING):
        if layer.share == "batch":
            yield layer, "share", "example"
    elif isinstance(layer, DropConnect):
        yield from _connections(layer, draws, place)
    elif draws.num_draws > 1:
        raise NotFoldableError(f"{type(layer).__name__} draws for a whole batch")
    yield (
        layer,
        "call",
        lambda inputs, *arguments, training=None, **options: layer.draw_call(
            inputs, *arguments, training=False, **options
        ),
    )
    yield layer, "uniform", lambda shape, **_: draws.uniform_of_layer(place, shape)
    yield layer.seed_generator, "next", lambda ordered=True: draws.seed_of_pass(place)


def _connections(layer, draws, place):
    """Gives a `DropConnect` masks of its kernel for each draw, `(k, *kernel)`, and a product that takes them."""
    mask = "batch" if draws.shared else layer.mask
    original_factor, original_product = layer._factor, layer._product

    def factor(shape, key, of="kernel"):
        # Not by the shape: a bias's, with its examples, may be the kernel's.
        if of == "kernel" and mask == "exact":
            return original_factor(shape, key)
        if of == "kernel":
            numbers = draws.uniform_per_draw(place, shape)
        else:
            rows = draws.num_draws * draws.batch
            numbers = draws.uniform(place, [rows, *shape[1:]], [1 if mask == "batch" else None, *shape[1:]])
        return keep(numbers, layer.rate, layer.compute_dtype)

    def product(inputs, kernel):
        if kernel.shape.rank == len(layer.layer.kernel.shape):
            return original_product(inputs, kernel)
        parts = zip(tf.split(inputs, draws.num_draws), tf.unstack(kernel))
        return tf.concat([original_product(*part) for part in parts], 0)

    yield layer, "mask", mask
    yield layer, "_factor", factor
    if mask != "exact":
        yield layer, "_product", product
        yield layer, "next_key", lambda per_replica=True: None


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
