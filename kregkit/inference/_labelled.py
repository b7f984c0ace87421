"""Targets, weights and predictions of labelled data, output by output."""

import dataclasses
from typing import Any

import keras
import numpy as np

from kregkit._core.batches import concatenate, read_batches
from kregkit._core.output_kinds import flat_losses


@dataclasses.dataclass(frozen=True)
class Labelled:
    """What a model predicts for labelled data, from one pass over them.

    Args:
        y: Structure of arrays, the targets as they came.
        targets: List, per flat output: an array, or `None` where there is no target.
        weights: List, per flat output: an array of one weight per example or per step of an example, or `None`.
        prediction: Structure of arrays.
        unweighed: List of the indices of flat outputs that have targets, but weigh nothing anywhere. Their targets
            are `None`.
    """

    y: Any
    targets: list
    weights: list
    prediction: Any
    unweighed: list


def labelled_predictions(model, validation, batch_size, measured, partly=False):
    """Returns the `Labelled` of a `PassModel`, from one pass over validation data.

    Steps that the model masks weigh nothing, as in Keras's losses, nor do labels that a loss ignores (`ignore_class`).

    Args:
        model: A `PassModel`. If it returns a list of several predictions, targets belong to each of them.
        validation: `(x, y)` or `(x, y, sample_weight)` of arrays, or a data set of such batches.
        batch_size: Integer or `None`, for arrays.
        measured: The Keras model whose outputs, and losses, the targets are for.
        partly: Boolean, whether an output whose weights are all 0 is left out, if another one has some.

    Raises:
        ValueError: There are no targets, or they don't match the outputs, or there is no example, or none has a weight.
    """
    y_batches, weight_batches, predictions, mask_batches = [], [], [], []
    with model.one_pass():
        for x, y, weight in read_batches(validation, batch_size):
            if y is None:
                raise ValueError("`validation` must hold targets: (x, y) or batches of them")
            prediction, masks = model.predict_with_masks(x)
            predictions.append(prediction)
            mask_batches.append(masks)
            y_batches.append(y)
            weight_batches.append(weight)
    if not predictions:
        raise ValueError("`validation` is empty")
    y, weight, prediction = concatenate(y_batches), concatenate(weight_batches), concatenate(predictions)
    masks = [None if one[0] is None else np.concatenate(one) for one in zip(*mask_batches)]
    each = prediction[0] if model.several else prediction
    targets, weights = matched(y, weight, masks, each, measured)
    with_targets = [index for index, target in enumerate(targets) if target is not None]
    unweighed = [index for index in with_targets if weighs_nothing(weights[index])]
    left_out = unweighed if partly and len(unweighed) < len(with_targets) else []
    for index in with_targets:
        weight = weights[index]
        if weight is not None and not np.sum(weight) > 0 and index not in left_out:
            raise ValueError(
                "There is nothing to measure by: all examples of an output have weight 0, or are masked. "
                f"Received: weights that sum to {np.sum(weight)}"
            )
    targets = [None if index in left_out else target for index, target in enumerate(targets)]
    return Labelled(y, targets, weights, prediction, left_out)


def weighs_nothing(weight):
    """Returns whether all weights of an output are 0."""
    return weight is not None and not np.any(weight)


def matched(y, weight, masks, prediction, model):
    """Returns two lists, per flat output: targets, and weights, in which masked and ignored decisions have none.

    Args:
        y, weight: Structures of arrays, as they came with the data; `weight` may be `None`.
        masks: List of one array or `None` per flat output, of which those beyond the outputs aren't used.
        prediction: Structure of arrays, the model's outputs.
        model: The Keras model.
    """
    outputs = keras.tree.flatten(prediction)
    targets = _per_output("targets", y, prediction, model)
    if weight is None or not keras.tree.is_nested(weight):
        weights = [weight] * len(outputs)
    else:
        weights = _per_output("sample weights", weight, prediction, model)
    losses = flat_losses(model, prediction, len(outputs))
    for index, (output, mask, loss) in enumerate(zip(outputs, masks, losses)):
        target = targets[index]
        if target is None:
            continue
        weights[index] = _combined(weights[index], mask, output)
        ignored = getattr(loss, "ignore_class", None)
        if ignored is not None and np.shape(target) != output.shape:
            # Labels (batch, steps) or (batch, steps, 1) of an output (batch, steps, classes).
            kept = np.reshape(target, output.shape[:-1]) != ignored
            targets[index] = np.where(np.reshape(kept, np.shape(target)), target, 0)
            weights[index] = _combined(weights[index], kept, output)
    return targets, weights


def _per_output(what, values, prediction, model):
    """Returns one value per flat output: a dictionary's by the outputs' names, `None` for those that it leaves out."""
    count = len(keras.tree.flatten(prediction))
    names = list(getattr(model, "output_names", None) or [])
    if isinstance(values, dict) and (count > 1 or isinstance(prediction, dict)):
        if isinstance(prediction, dict) and any(key in prediction for key in values):
            # Keras flattens dictionaries by sorted keys.
            flat = [values.get(key) for key in sorted(prediction)]
        elif len(names) == count and any(name in values for name in names):
            flat = [values.get(name) for name in names]
        else:
            raise ValueError(
                f"The {what} are called otherwise than the model's outputs. Received: {what} for {sorted(values)}, "
                f"outputs {sorted(prediction) if isinstance(prediction, dict) else names}"
            )
        if len(flat) == count and not any(keras.tree.is_nested(one) for one in flat):
            return flat
    flat = keras.tree.flatten(values)
    if len(flat) != count:
        raise ValueError(f"Expected {what} for {count} outputs. Received: {len(flat)} arrays")
    return flat


def _combined(weight, seen, output):
    """Returns weights `(batch, steps, ...)` that are 0 where `seen` is false; as they are where it fits no output."""
    if seen is None or seen.shape != output.shape[: seen.ndim]:
        return weight
    seen = seen.astype("float64")
    if weight is None:
        return seen
    weight = np.asarray(weight, "float64")
    most = max(weight.ndim, seen.ndim)
    weight, seen = (one.reshape(one.shape + (1,) * (most - one.ndim)) for one in (weight, seen))
    return weight * seen
