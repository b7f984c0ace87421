"""What to freeze and how to train it, from the data's size and likeness; and doing so."""

import dataclasses

import keras
import numpy as np

from kregkit._core.checks import check_integer, check_number
from kregkit.transfer._graph import flat_layers, weighted_layers
from kregkit.transfer.freeze import freeze
from kregkit.transfer.gradual_unfreeze import GradualUnfreeze
from kregkit.transfer.head import features, reinitialize, replace_head
from kregkit.transfer.linear_probe import _labels, linear_probe

# Examples per class below which data are little: a head has no more to go by than a few hundred numbers.
_LITTLE = 50


@dataclasses.dataclass(frozen=True)
class Plan:
    """How to start from another model's weights.

    Args:
        strategy: `"linear head"`, `"heads on several stages"`, `"fine-tune the top"` or `"fine-tune most"`.
        stages: Integer >= 1, the body's stages that the head reads, the last ones.
        train: Float in [0, 1], the part of the body's layers that trains in the end, from the top.
        reinitialize: Float in [0, 1], the part of those that begins anew, from the top.
        head_learning_rate: Float, Adam's rate while the body is frozen.
        learning_rate_factor: Float, by which it is multiplied when layers thaw.
        head_epochs, epochs: Integers, the epochs with a frozen body, and all.
        augment: Boolean, whether images are shifted, turned and zoomed a little.
        reasons: Tuple of strings.
    """

    strategy: str
    stages: int
    train: float
    reinitialize: float
    head_learning_rate: float
    learning_rate_factor: float
    head_epochs: int
    epochs: int
    augment: bool
    reasons: tuple

    def __str__(self):
        return "\n".join([f"Plan: {self.strategy}", *(f"- {reason}" for reason in self.reasons)])


@dataclasses.dataclass(frozen=True)
class Similarity:
    """How alike a model's old data and new ones are, by `measure_similarity`.

    Args:
        similarity: Float in [0, 1].
        accuracy: Dictionary from a stage to its linear probe's accuracy.
        chance: Float.
        reason: String.
    """

    similarity: float
    accuracy: dict
    chance: float
    reason: str

    def __float__(self):
        return self.similarity

    def __str__(self):
        return self.reason


def measure_similarity(model, data, stages=4, seed=0):
    """Estimates how alike new data and those that a model was trained on are, from linear probes of several stages.

    ```
    similarity = max(0, top - chance) / (1 - chance) * min(1, (top - chance) / (best - chance))
    ```

    `top` is the cross-validated accuracy of a linear classifier on the last stage's features, `best` that of the best
    stage. On similar data the last stage serves best; the more the data differ, the earlier the stage that does, and
    the less any of them says.

    Args:
        model: A functional or built sequential model.
        data: `(x, y)`, arrays with integer labels; a few hundred examples do.
        stages: Integer >= 1, how many stages, spread over the depth. Defaults to `4`.
        seed: Integer, for the cross-validation.

    Returns:
        A `Similarity`; `float()` of it is the number.

    Raises:
        ValueError: The model's graph can't be read, or labels are not integers.
    """
    check_integer("stages", stages, 1)
    names = _stage_names(model, stages)
    probe = linear_probe(model, data, layers=names, penalty=0.01, seed=seed)
    top, best, chance = probe.accuracy[names[-1]], max(probe.accuracy.values()), probe.chance
    share = max(0.0, top - chance) / (1 - chance)
    similarity = share * min(1.0, max(top - chance, 0) / max(best - chance, 1e-9)) if best > chance else 0.0
    reason = (
        f"similarity {similarity:.2f}: a linear layer on the last stage ({names[-1]}) is right in {top:.1%}, on the "
        f"best ({probe.layer}) in {best:.1%}, by chance in {chance:.1%}"
    )
    return Similarity(float(similarity), probe.accuracy, chance, reason)


def _stage_names(model, count):
    """Returns the names of layers spread over the body's depth, the last one included."""
    weighted = weighted_layers(model)
    body = weighted[:-1] if isinstance(weighted[-1], keras.layers.Dense) and len(weighted) > 1 else weighted
    flat = flat_layers(model)
    kinds = (keras.layers.BatchNormalization, keras.layers.ReLU, keras.layers.Activation, keras.layers.LeakyReLU)
    names = []
    for index in sorted({round(i) for i in np.linspace(0, len(body) - 1, count + 1)[1:]} or {0}):
        place = next(position for position, layer in enumerate(flat) if layer is body[index])
        while place + 1 < len(flat) and isinstance(flat[place + 1], kinds):
            place += 1
        names.append(flat[place].name)
    return names


def recommend(num_examples, num_classes, similarity):
    """Returns what to freeze, at which rates, and whether to augment: the table of size by likeness.

    | | similar data | different data |
    |---|---|---|
    | little data | a linear head on the frozen top | linear heads on several stages, augment, retrain more |
    | more data | fine-tune a few layers | fine-tune most layers |

    Little is below 50 examples per class; similar is 0.6 or more, as `measure_similarity` measures it.

    Args:
        num_examples: Integer >= 1, the training examples.
        num_classes: Integer >= 2.
        similarity: Float in [0, 1], or a `Similarity`; `"similar"` or `"different"` are 1 and 0.

    Returns:
        A `Plan`, which prints its reasons and is carried out by `fine_tune`.

    Raises:
        ValueError: An argument is out of range.

    Example:

    >>> print(recommend(100, 5, "similar"))
    Plan: linear head
    - 20 examples per class are little (below 50): few weights can be trained without overfitting
    - similarity 1.00 is high (0.6 or more): the last stage's features fit
    - so the body stays frozen, its BatchNormalization in inference mode, and only a new linear head trains
    - augmentation adds what little data lack
    """
    check_integer("num_examples", num_examples, 1)
    check_integer("num_classes", num_classes, 2)
    similarity = (
        {"similar": 1.0, "different": 0.0}.get(similarity, similarity) if isinstance(similarity, str) else similarity
    )
    likeness = check_number("similarity", float(similarity) if isinstance(similarity, Similarity) else similarity, 0, 1)
    per_class = num_examples / num_classes
    little, alike = per_class < _LITTLE, likeness >= 0.6
    reasons = [
        f"{per_class:.3g} examples per class are "
        + (f"little (below {_LITTLE}): few weights can be trained without overfitting" if little
           else f"enough ({_LITTLE} or more) to train layers of the body too"),
        f"similarity {likeness:.2f} is "
        + ("high (0.6 or more): the last stage's features fit" if alike
           else "low (below 0.6): the last stages say little about these data, earlier ones more"),
    ]  # fmt: skip
    if little and alike:
        settings = ("linear head", 1, 0.0, 0.0, 1e-2, 0.1, 60, 60, True)
        reasons.append(
            "so the body stays frozen, its BatchNormalization in inference mode, and only a new linear head trains"
        )
    elif little:
        settings = ("heads on several stages", 3, 0.5, 0.5, 1e-2, 0.1, 30, 80, True)
        reasons.append(
            "so the head reads several stages, the upper half of the body trains too, and its top begins anew"
        )
    elif alike:
        settings = ("fine-tune the top", 1, 0.34, 0.0, 3e-3, 0.1, 10, 40, False)
        reasons.append("so the head trains first, then the top third of the body at a tenth of the rate")
    else:
        settings = ("fine-tune most", 1, 1.0, 0.0, 3e-3, 0.3, 5, 40, False)
        reasons.append("so the head trains first, then all layers from the top at three tenths of the rate")
    if little:
        reasons.append("augmentation adds what little data lack")
    return Plan(*settings, tuple(reasons))


@dataclasses.dataclass(frozen=True)
class FineTuned:
    """What `fine_tune` made.

    Args:
        model: The compiled model for the new classes; outputs are logits.
        history: The fit's `History`.
        plan: The `Plan`.
    """

    model: keras.Model
    history: object
    plan: Plan


def fine_tune(model, train, validation=None, plan=None, batch_size=32, callbacks=(), verbose=0):
    """Carries out a plan: a new head, a frozen body, and layers that thaw from the top, in one `fit`.

    Args:
        model: The model to start from, functional or built sequential; it is left as it is.
        train: `(x, y)`, arrays with integer labels.
        validation: `(x, y)`, scored after each epoch.
        plan: A `Plan`. Defaults to `recommend` on these data, with `measure_similarity`.
        batch_size: Integer >= 1.
        callbacks: List of further callbacks.
        verbose: As for `fit`.

    Returns:
        A `FineTuned`: the new model with its own weights, the history and the plan.

    Raises:
        ValueError: Labels are not integers, or the model's graph can't be read.
    """
    x, y = np.asarray(train[0]), _labels(train[1])
    num_classes = int(y.max()) + 1
    if validation is not None:
        num_classes = max(num_classes, int(_labels(validation[1]).max()) + 1)
    if plan is None:
        plan = recommend(len(x), num_classes, measure_similarity(model, (x, y)))
    if not isinstance(plan, Plan):
        raise ValueError(f"`plan` must be what `recommend` returns. Received: plan={plan!r}")
    tuned = _with_head(model, num_classes, plan)
    body = weighted_layers(tuned)[:-1]
    count = round(plan.train * len(body))
    if plan.reinitialize and count:
        chosen = body[len(body) - max(1, round(plan.reinitialize * count)) :]
        reinitialize(tuned, chosen)
    if plan.augment and len(x.shape) == 4:
        inputs = keras.Input(x.shape[1:])
        moved = inputs
        for layer in (
            keras.layers.RandomTranslation(0.1, 0.1, fill_mode="nearest"),
            keras.layers.RandomRotation(0.03, fill_mode="nearest"),
            keras.layers.RandomZoom(0.1, 0.1, fill_mode="nearest"),
        ):
            moved = layer(moved)
        trained = keras.Model(inputs, tuned(moved))
    else:
        trained = tuned
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    trained.compile(keras.optimizers.Adam(plan.head_learning_rate), loss, metrics=["accuracy"])
    if count and plan.head_epochs < plan.epochs:
        half = max(1, count // 2)
        middle = (plan.head_epochs + plan.epochs) // 2
        stages = [(0, 1), (plan.head_epochs, 1 + half)]
        stages += [(middle, 1 + count)] if count > half and middle > plan.head_epochs else []
        callbacks = [GradualUnfreeze(stages, plan.learning_rate_factor), *callbacks]
    elif not count:
        freeze(trained, until=-1)
    history = trained.fit(
        x, y, batch_size, plan.epochs, verbose, validation_data=validation, callbacks=list(callbacks)
    )  # fmt: skip
    if trained is not tuned:
        tuned.compile(keras.optimizers.Adam(plan.head_learning_rate), loss, metrics=["accuracy"])
    return FineTuned(tuned, history, plan)


def _with_head(model, num_classes, plan):
    if plan.stages == 1:
        return replace_head(model, num_classes)
    # A copy of the body: `replace_head` makes one, and its layers have the same names.
    copy = replace_head(model, num_classes)
    names = list(dict.fromkeys(_stage_names(copy, plan.stages)))
    stages = features(copy, names, pooling="average")
    joined = keras.layers.Concatenate()(stages.outputs) if len(names) > 1 else stages.outputs[0]
    joined = keras.layers.BatchNormalization(name="stages")(joined)
    return keras.Model(stages.input, keras.layers.Dense(num_classes, name="head", dtype="float32")(joined))
