"""Which layers of a model count as noise, and how their noise is drawn at test time.

Noise is what Keras's own stochastic layers draw in training (`keras_layers.py`), and what layers draw that follow the
protocol of `kregkit.layers`: they have `draw_call` and `seed_generator`.
"""

import contextlib

from kregkit._core.keras_internals import flatten_layers
from kregkit._core.replacing import replaced_all
from kregkit.inference.noise import keras_layers
from kregkit.inference.noise.draws import NoiseSource, NotFoldableError


def follows_protocol(layer):
    """Returns whether the layer says itself how it is drawn: by `draw_call`, with numbers from `seed_generator`."""
    return hasattr(layer, "draw_call") and hasattr(layer, "seed_generator")


def is_noisy(layer):
    """Returns whether the layer is of a kind whose noise can be drawn here, and has any."""
    return follows_protocol(layer) or keras_layers.is_noisy(layer)


def select_noise(models, noise):
    """Returns, per model, the indices, in `flatten_layers(model)`, of the layers whose noise is to be drawn.

    Args:
        models: List of built Keras models.
        noise: `"all"`, `None`, or a list of layers and layer types. An entry that has no noise of its own, such as a
            recurrent layer or a nested model, stands for all noise inside it.

    Raises:
        ValueError: `noise` is none of these, or an entry of the list is in none of the models or has no noise.
    """
    if noise is None:
        return [[] for _ in models]
    if isinstance(noise, str) and noise != "all":
        raise ValueError(f"`noise` must be 'all', None or a list of layers and layer types. Received: noise={noise!r}")
    every = [flatten_layers(model) for model in models]
    if noise == "all":
        return [[index for index, layer in enumerate(own) if is_noisy(layer)] for own in every]
    chosen = [set() for _ in models]
    for entry in noise:
        matches = [_indices_of(entry, own) for own in every]
        if not any(matches):
            names = ", ".join(sorted({repr(model.name) for model in models}))
            raise ValueError(
                f"Every entry of `noise` must be a noisy layer of model {names}, or the type of some. "
                f"Received: noise={noise!r}, of which {entry!r} is not"
            )
        for indices, more in zip(chosen, matches):
            indices.update(more)
    return [sorted(indices) for indices in chosen]


def _indices_of(entry, every):
    """Returns the indices of the noisy layers that a layer or a layer type stands for."""
    matches = [layer for layer in every if layer is entry or (isinstance(entry, type) and isinstance(layer, entry))]
    meant = {id(part) for layer in matches for part in ([layer] if is_noisy(layer) else flatten_layers(layer))}
    return [index for index, layer in enumerate(every) if id(layer) in meant and is_noisy(layer)]


@contextlib.contextmanager
def drawing(model, layer_indices, draws, moved=None):
    """Makes layers draw their noise from `draws`, for the block; everything else stays as it was.

    Args:
        model: A Keras model.
        layer_indices: Integers, as `select_noise` gives them.
        draws: `Draws`.
        moved: Dictionary from layer indices to layers behind whose results the noise is to be drawn instead.
    """
    every = flatten_layers(model)
    with contextlib.ExitStack() as stack:
        for index in layer_indices:
            layer = every[index]
            if follows_protocol(layer):
                changes = _changes_by_protocol(layer, NoiseSource(draws, index))
            elif index in (moved or {}):
                changes = _changes_of_moved(layer, moved[index], draws, index)
            else:
                changes = keras_layers.changes(layer, every, draws, index)
            # One layer at a time: a cell's owner may have been changed for another cell already.
            stack.enter_context(replaced_all(list(changes)))
        yield


def _changes_by_protocol(layer, source):
    """Yields what makes a layer that follows the protocol of `kregkit.layers` draw from a `NoiseSource`."""

    def call(inputs, *arguments, training=None, **options):
        return layer.draw_call(inputs, *arguments, training=False, **options)

    yield layer, "call", call
    known = hasattr(layer, "noise_source")
    if known:
        yield layer, "noise_source", source
    yield layer, "uniform", source.uniform if known else source.uniform_of_unknown
    yield layer.seed_generator, "next", source.key if known else source.key_of_unknown


def _changes_of_moved(layer, behind, draws, layer_index):
    original = behind.call

    def call(*arguments, **options):
        return keras_layers.perturbed(layer, draws, layer_index, original(*arguments, **options))

    yield layer, "call", lambda inputs, *_, **__: inputs
    yield behind, "call", call


@contextlib.contextmanager
def expecting(model, layer_indices):
    """Makes layers give their noise's expectation, for the block."""
    every = flatten_layers(model)
    layers = [every[index] for index in layer_indices if follows_protocol(every[index])]
    with replaced_all([(layer, "call", layer.expected_call) for layer in layers]):
        yield


def check_expectations(model, layer_indices):
    """Raises `ValueError` for noise whose expectation isn't known, even where all layers behind it are linear."""
    every = flatten_layers(model)
    known = [hasattr(layer, "expected_call") or keras_layers.has_expectation(layer) for layer in every]
    without = sorted({type(every[index]).__name__ for index in layer_indices if not known[index]})
    if without:
        raise ValueError(
            f"There is no analytic form for {', '.join(without)}: leave them out of `noise`, or average draws. "
            "Received: draws='analytic'"
        )


__all__ = ["NotFoldableError", "check_expectations", "drawing", "expecting", "is_noisy", "select_noise"]
