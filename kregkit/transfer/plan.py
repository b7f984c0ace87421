"""What to freeze and how to train it, from the data's size and likeness."""

import dataclasses
from typing import Any

from kregkit._core.checks import check_integer, check_number
from kregkit._core.notebook import Notebook
from kregkit.transfer.similarity import Similarity

# With fewer examples per class, data count as little: a head would be trained on a few hundred examples.
_LITTLE = 50
# From this similarity on, the last stage's features are expected to fit.
_ALIKE = 0.6


@dataclasses.dataclass(frozen=True)
class Plan(Notebook):
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


def recommend(num_examples: int, num_classes: int, similarity: Any) -> Plan:
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
    """
    check_integer("num_examples", num_examples, 1)
    check_integer("num_classes", num_classes, 2)
    similarity = (
        {"similar": 1.0, "different": 0.0}.get(similarity, similarity) if isinstance(similarity, str) else similarity
    )
    likeness = check_number("similarity", float(similarity) if isinstance(similarity, Similarity) else similarity, 0, 1)
    per_class = num_examples / num_classes
    little, alike = per_class < _LITTLE, likeness >= _ALIKE
    reasons = [
        f"{per_class:.3g} examples per class are "
        + (f"little (below {_LITTLE}): few weights can be trained without overfitting" if little
           else f"enough ({_LITTLE} or more) to train layers of the body too"),
        f"similarity {likeness:.2f} is "
        + ("high (0.6 or more): the last stage's features fit" if alike
           else "low (below 0.6): the last stages say little about these data, earlier ones more"),
    ]  # fmt: skip
    if little and alike:
        settings = ("linear head", 1, 0.0, 0.0, 1e-3, 0.1, 30, 30, False)
        reasons.append(
            "so the body stays frozen, its BatchNormalization in inference mode, and only a new linear head trains"
        )
    elif little:
        settings = ("heads on several stages", 3, 0.5, 0.5, 3e-3, 0.3, 20, 60, True)
        reasons.append(
            "so the head reads several stages, the upper half of the body trains too, and its top begins anew"
        )
    elif alike:
        settings = ("fine-tune the top", 1, 0.34, 0.0, 3e-3, 0.1, 5, 30, False)
        reasons.append("so the head trains first, then the top third of the body at a tenth of the rate")
    else:
        settings = ("fine-tune most", 1, 1.0, 0.0, 3e-3, 0.3, 3, 30, False)
        reasons.append("so the head trains first, then all layers from the top at three tenths of the rate")
    if little and not alike:
        reasons.append("augmentation adds what little data lack; leave it out where validation is better without")
    return Plan(*settings, tuple(reasons))
