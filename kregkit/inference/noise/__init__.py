"""How the noise of a model's layers is drawn at test time, or replaced by its expectation.

`selection.py` says which layers count as noise.
"""

import contextlib
import functools

from kregkit._core.keras_internals import flatten_layers
from kregkit._core.replacing import replaced_all
from kregkit.inference.noise import keras_layers
from kregkit.inference.noise.random_numbers import NoiseSource, NotFoldableError
from kregkit.inference.noise.selection import drawn_layers, follows_protocol, select_noise


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
