"""Which layers of a model count as noise, and how their noise is drawn at test time.

Noise is what Keras's own stochastic layers draw in training (`keras_layers.py`), and what layers draw that follow the
protocol of `kregkit.layers`: they have `draw_call` and `seed_generator`. It is also what a model draws in inference by
itself (`own_numbers.py`), such as a sampling layer; nothing tells before it runs whether a custom layer does.
"""

import contextlib
import functools

from kregkit._core.keras_internals import flatten_layers
from kregkit._core.replacing import replaced_all
from kregkit.inference.noise import keras_layers
from kregkit.inference.noise.draws import NoiseSource, NotFoldableError
from kregkit.inference.noise.own_numbers import has_own_code


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
            recurrent layer or a nested model, stands for all noise inside it. Layers with code of their own, which may
            draw in inference, belong to `"all"`, and to an entry in which nothing else is noisy.

    Raises:
        ValueError: `noise` is none of these, or an entry of the list is in none of the models or has no noise.
    """
    if noise is None:
        return [[] for _ in models]
    if isinstance(noise, str) and noise != "all":
        raise ValueError(f"`noise` must be 'all', None or a list of layers and layer types. Received: noise={noise!r}")
    every = [flatten_layers(model) for model in models]
    if noise == "all":
        return [[index for index, layer in enumerate(own) if is_noisy(layer) or has_own_code(layer)] for own in every]
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
    for counts_as_noise in (is_noisy, has_own_code):
        indices = [index for index, layer in enumerate(every) if id(layer) in meant and counts_as_noise(layer)]
        if indices:
            return indices
    return []


def drawn_layers(model, layer_indices):
    """Returns those of the selected layers whose noise is drawn here, without those that draw it by themselves."""
    every = flatten_layers(model)
    return [index for index in layer_indices if is_noisy(every[index])]


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
        for index in drawn_layers(model, layer_indices):
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

    yield layer, "call", functools.partial(_in_inference, layer.draw_call)
    known = hasattr(layer, "noise_source")
    if known:
        yield layer, "noise_source", source
    yield layer, "uniform", source.uniform if known else source.uniform_of_unknown
    yield layer.seed_generator, "next", source.key if known else source.key_of_unknown


def _changes_of_moved(layer, behind, draws, layer_index):
    original = behind.call

    def call(*arguments, **options):
        return keras_layers.perturbed(layer, draws, layer_index, original(*arguments, **options))

    yield layer, "call", keras_layers.without_noise
    yield behind, "call", call


@contextlib.contextmanager
def expecting(model, layer_indices):
    """Makes layers give their noise's expectation, for the block."""
    every = flatten_layers(model)
    changes = []
    for index in layer_indices:
        if follows_protocol(every[index]):
            changes.append((every[index], "call", functools.partial(_in_inference, every[index].expected_call)))
        else:
            changes += keras_layers.expectation_changes(every[index])
    with replaced_all(changes):
        yield


def _in_inference(call, inputs, *arguments, training=None, **options):
    return call(inputs, *arguments, training=False, **options)


def check_expectations(model, layer_indices):
    """Raises `ValueError` for noise whose expectation isn't known, even where all layers behind it are linear."""
    layers = [flatten_layers(model)[index] for index in drawn_layers(model, layer_indices)]
    known = [hasattr(layer, "expected_call") or keras_layers.has_expectation(layer) for layer in layers]
    without = sorted({type(layer).__name__ for layer, has_mean in zip(layers, known) if not has_mean})
    if without:
        raise ValueError(
            f"There is no analytic form for {', '.join(without)}: leave them out of `noise`, or average draws. "
            "Received: draws='analytic'"
        )


__all__ = ["NotFoldableError", "check_expectations", "drawing", "drawn_layers", "expecting", "select_noise"]
