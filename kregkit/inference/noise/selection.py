"""Which layers of a model count as noise.

Noise is what Keras's own stochastic layers draw in training (`keras_layers.py`), and what layers draw that follow the
protocol of `kregkit.layers`: they have `draw_call` and `seed_generator`. It is also what a model draws in inference by
itself (`own_numbers.py`), such as a sampling layer; nothing tells before it runs whether a custom layer does.
"""

from kregkit._core.keras_internals import flatten_layers
from kregkit.inference.noise import keras_layers
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
