"""What a model's outputs are: probabilities, logits or plain values."""

import dataclasses
import functools

import keras

from kregkit._core.checks import check_choice
from kregkit._core.graph import last_activation

OUTPUTS = ("auto", "probabilities", "logits", "values")


@dataclasses.dataclass(frozen=True)
class Task:
    """What one output means.

    Args:
        kind: `"probabilities"`, `"logits"` or `"values"`.
        link: `"softmax"` where the last axis holds one distribution over classes, `"sigmoid"` where every number is
            the probability (or its logit) of a yes, `None` for values.
    """

    kind: str
    link: str | None = None


# The link of the outputs that a loss is for.
_LINKS = {
    "softmax": (
        keras.losses.CategoricalCrossentropy,
        keras.losses.SparseCategoricalCrossentropy,
        keras.losses.CategoricalFocalCrossentropy,
        keras.losses.KLDivergence,
    ),
    "sigmoid": (keras.losses.BinaryCrossentropy, keras.losses.BinaryFocalCrossentropy),
    None: (
        keras.losses.MeanSquaredError,
        keras.losses.MeanAbsoluteError,
        keras.losses.MeanAbsolutePercentageError,
        keras.losses.MeanSquaredLogarithmicError,
        keras.losses.Huber,
        keras.losses.LogCosh,
        keras.losses.Poisson,
        keras.losses.CosineSimilarity,
        keras.losses.Hinge,
        keras.losses.SquaredHinge,
        keras.losses.CategoricalHinge,
    ),
}
_CLASSES = {loss: link for link, losses in _LINKS.items() for loss in losses}
# The same losses as functions.
_FUNCTIONS = {loss().fn: link for loss, link in _CLASSES.items()}


def task_of_loss(loss):
    """Returns the `Task` that a loss says about its output, or `None` where it says nothing.

    Args:
        loss: What `compile` takes for one output: a string, a `keras.losses.Loss`, a function (`functools.partial` of
            Keras's own included), or `None`.

    >>> import keras
    >>> task_of_loss(keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    Task(kind='logits', link='softmax')
    >>> task_of_loss("mse")
    Task(kind='values', link=None)
    """
    if isinstance(loss, str):
        loss = keras.losses.get(loss)
    options = {}
    if isinstance(loss, functools.partial):
        loss, options = loss.func, loss.keywords
    elif isinstance(loss, keras.losses.Loss):
        options = {name: getattr(loss, name, default) for name, default in (("from_logits", False), ("axis", -1))}
    links = [link for known, link in _CLASSES.items() if isinstance(loss, known)]
    if not links:
        # A function in the table, or something that can't even be looked up.
        links = [link for known, link in _FUNCTIONS.items() if loss is known]
    if not links:
        return None
    link = links[0]
    if link is None:
        return Task("values")
    # Classes along another axis than the last are not told from here on.
    if link == "softmax" and options.get("axis", -1) != -1:
        return None
    return Task("logits" if options.get("from_logits", False) else "probabilities", link)


def loss_tasks(model):
    """Returns what the losses that a model was compiled with say, as a flat tuple; empty where there is no loss."""
    loss = getattr(model, "loss", None)
    return () if loss is None else tuple(task_of_loss(one) for one in keras.tree.flatten(loss))


def flat_losses(model, structure, count):
    """Returns one loss, or `None`, per flat output, in the order of `keras.tree.flatten`."""
    loss = getattr(model, "loss", None)
    if loss is None or not keras.tree.is_nested(loss):
        return [loss] * count
    names = list(getattr(model, "output_names", None) or [])
    if isinstance(loss, dict):
        if isinstance(structure, dict):
            chosen = {key: loss.get(key) for key in structure}
        elif not keras.tree.is_nested(structure):
            chosen = next(iter(loss.values())) if len(loss) == 1 else loss.get(names[0]) if names else None
        else:
            chosen = [loss.get(name) for name in names]
    else:
        chosen = loss
    flat = keras.tree.flatten(chosen)
    return flat if len(flat) == count else [None] * count


def output_tasks(model, structure, outputs="auto"):
    """Returns a flat list with one `Task` per output of a model.

    Each is read from the loss that the model was compiled with, else from the last layer's activation.

    Args:
        model: A Keras model.
        structure: What the model returns, on real or symbolic tensors; only its structure and shapes are used.
        outputs: `"auto"`, `"probabilities"`, `"logits"` or `"values"` for all outputs, or a list or dictionary of
            these that matches the outputs.

    Raises:
        ValueError: `outputs` is none of these, or is `"auto"` where neither loss nor activation tells.
    """
    flat = keras.tree.flatten(structure)
    if isinstance(outputs, str):
        wanted = [outputs] * len(flat)
    elif isinstance(outputs, dict) and isinstance(structure, dict) and set(outputs) == set(structure):
        wanted = keras.tree.flatten(outputs)
    elif isinstance(outputs, dict) and set(outputs) == set(getattr(model, "output_names", None) or []):
        wanted = [outputs[name] for name in model.output_names]
    else:
        wanted = keras.tree.flatten(outputs)
    if len(wanted) != len(flat):
        raise ValueError(f"`outputs` must match the model's {len(flat)} outputs. Received: outputs={outputs!r}")
    for one in wanted:
        check_choice("outputs", one, OUTPUTS)
    symbolic = list(getattr(model, "outputs", None) or [])
    activations = [last_activation(tensor) for tensor in symbolic] if len(symbolic) == len(flat) else [None] * len(flat)
    losses = flat_losses(model, structure, len(flat))
    return [
        _task(kind, loss, activation, tensor, index)
        for index, (kind, loss, activation, tensor) in enumerate(zip(wanted, losses, activations, flat))
    ]


def _task(wanted, loss, activation, tensor, index):
    known = task_of_loss(loss)
    if activation == "softmax" and (known is None or known.kind != "logits"):
        # Also where the loss is a squared error or a binary crossentropy: the numbers are one distribution.
        known = Task("probabilities", "softmax")
    elif known is None and activation == "sigmoid":
        known = Task("probabilities", "sigmoid")
    if wanted == "auto":
        if known is None:
            raise ValueError(
                f"Output {index} could be probabilities, logits or values: neither a loss nor the last activation "
                f"tells. Say which, as `outputs=`, or compile the model with its loss. Received: outputs={wanted!r}"
            )
        return known
    if wanted == "values":
        return Task("values")
    link = known.link if known is not None else None
    return Task(wanted, link or ("sigmoid" if tensor.shape[-1] == 1 else "softmax"))
