"""Carry out a plan: a new head, a frozen body, layers that thaw."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras

from kregkit._core import rules
from kregkit._core.backends import require_tensorflow
from kregkit._core.checks import check_integer
from kregkit._core.types import Data
from kregkit.transfer._data import features_of, is_pair, labels_of
from kregkit.transfer._graph import inputs_of, stage_names, weighted_layers
from kregkit.transfer.feature_extraction import features
from kregkit.transfer.gradual_unfreeze import GradualUnfreeze
from kregkit.transfer.head import replace_head
from kregkit.transfer.plan import Plan, recommend
from kregkit.transfer.probing import solve
from kregkit.transfer.similarity import measure_similarity
from kregkit.transfer.surgery import reinitialize

# The L2 penalty of the head's first solution, on standardised features.
_PENALTY = 0.01


@dataclasses.dataclass(frozen=True)
class FineTuned:
    """What `fine_tune` made.

    Args:
        model: The compiled model for the new classes; outputs are logits.
        history: The fit's `History`.
        plan: The `Plan`.
    """

    model: keras.Model
    history: keras.callbacks.History
    plan: Plan


@rules.checked(
    model=rules.model,
    train=rules.data,
    validation=rules.optional(rules.data),
    callbacks=rules.entries(rules.callback, empty=True),
    batch_size=rules.batch_size,
    verbose=rules.any_of(rules.choice("auto"), rules.verbose),
)
def fine_tune(
    model: keras.Model,
    train: Data,
    validation: Data = None,
    plan: Plan | None = None,
    batch_size: int | None = 32,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: int | str = 0,
) -> FineTuned:
    """Carries out a plan: a new head, a frozen body, and layers that thaw from the top, in one `fit`.

    The head starts from the linear probe's solution rather than at random, so that the first steps behind it don't
    spoil what the body knows.

    Args:
        model: The model to start from, functional or built sequential; it is left as it is.
        train: `(x, y)`, arrays with integer labels; or a `tf.data.Dataset` or `keras.utils.PyDataset` of such pairs in
            batches, which ends. A dataset is read once for its labels and once for the head's solution, then by `fit`.
        validation: In the same forms, scored after each epoch.
        plan: A `Plan`. Defaults to `recommend` on these data, with `measure_similarity`, which reads them twice more.
        batch_size: Integer >= 1, for arrays; a dataset comes in batches.
        callbacks: List of further callbacks.
        verbose: As for `fit`.

    Returns:
        A `FineTuned`: the new model with its own weights, the history and the plan.

    Raises:
        ValueError: Labels are not integers, a dataset doesn't end or can't be read again, or the model's graph can't be
            read.

    Reference: [Kumar et al., 2022](https://arxiv.org/abs/2202.10054)
    """
    require_tensorflow("fine_tune")
    check_integer("batch_size", batch_size, 1)
    y = labels_of("train", train)
    num_classes = int(y.max()) + 1
    if validation is not None:
        num_classes = max(num_classes, int(labels_of("validation", validation).max()) + 1)
    if plan is None:
        plan = recommend(len(y), num_classes, measure_similarity(model, train))
    if not isinstance(plan, Plan):
        raise ValueError(f"`plan` must be what `recommend` returns. Received: plan={plan!r}")
    tuned = _with_head(model, num_classes, plan)
    body = [layer for layer in weighted_layers(tuned) if layer.name != "head"]
    count = round(plan.train * len(body))
    if plan.reinitialize and count:
        reinitialize(tuned, body[len(body) - max(1, round(plan.reinitialize * count)) :])
    _solve_head(tuned, train)
    images = len(tuned.inputs) == 1 and len(tuned.inputs[0].shape) == 4
    trained = _augmented(tuned) if plan.augment and images else tuned
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    trained.compile(keras.optimizers.Adam(plan.head_learning_rate), loss, metrics=["accuracy"])
    stages: list[tuple[int, Any]] = [(0, "head")]
    if count and plan.head_epochs < plan.epochs:
        half, middle = max(1, count // 2), (plan.head_epochs + plan.epochs) // 2
        stages += [(plan.head_epochs, 1 + half)]
        stages += [(middle, 1 + count)] if count > half and middle > plan.head_epochs else []
    callbacks = [GradualUnfreeze(stages, plan.learning_rate_factor), *callbacks]
    options = {"epochs": plan.epochs, "verbose": verbose, "callbacks": callbacks, "validation_data": validation}
    if hasattr(train, "element_spec"):
        options["shuffle"] = False  # Keras can't shuffle a `tf.data.Dataset`, and warns by default
    data = (train[0], y, batch_size) if is_pair(train) else (train,)
    history = trained.fit(*data, **options)
    if trained is not tuned:
        tuned.compile(keras.optimizers.Adam(plan.head_learning_rate), loss, metrics=["accuracy"])
    return FineTuned(tuned, history, plan)


def _with_head(model, num_classes, plan):
    tuned = replace_head(model, num_classes)
    if plan.stages == 1:
        return tuned
    stages = features(tuned, stage_names(tuned, plan.stages), pooling="average")
    joined = keras.layers.Concatenate()(stages.outputs) if len(stages.outputs) > 1 else stages.outputs[0]
    return keras.Model(stages.input, keras.layers.Dense(num_classes, name="head", dtype="float32")(joined))


def _solve_head(model, train):
    """Gives the head the linear probe's weights: training goes on from there."""
    head = model.get_layer("head")
    (features,), y = features_of("train", train, keras.Model(inputs_of(model), head.input))
    kernel, bias = solve(features, y, head.units, _PENALTY)
    head.set_weights([kernel.astype("float32"), bias.astype("float32")])


def _augmented(model):
    """Returns the model behind small random movements of its images, in training only."""
    inputs = keras.Input(model.input_shape[1:])
    moved = keras.layers.RandomTranslation(0.05, 0.05, fill_mode="nearest")(inputs)
    moved = keras.layers.RandomRotation(0.02, fill_mode="nearest")(moved)
    moved = keras.layers.RandomZoom(0.05, 0.05, fill_mode="nearest")(moved)
    return keras.Model(inputs, model(moved))
