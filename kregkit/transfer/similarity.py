"""How alike the data that a model was trained on and new ones are."""

import dataclasses
import warnings
from typing import Any

import keras
import numpy as np

from kregkit._core import rules
from kregkit._core.checks import check_integer
from kregkit._core.notebook import Notebook
from kregkit._core.types import Data
from kregkit.transfer._data import labels_of
from kregkit.transfer._graph import check_graph, stage_names
from kregkit.transfer.probing import linear_probe

# With fewer examples per class, the similarity comes out too low by 0.2 or more.
_FEW = 10


@dataclasses.dataclass(frozen=True)
class Similarity(Notebook):
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


@rules.checked(seed=rules.whole(0))
def measure_similarity(model: keras.Model, data: Data, stages: int = 4, seed: int = 0) -> Any:
    """Estimates how alike new data and those that a model was trained on are, from linear probes of several stages.

    ```
    similarity = max(0, top - chance) / (1 - chance) * min(1, (top - chance) / (best - chance))
    ```

    `top` is the cross-validated accuracy of a linear classifier on the last stage's features, `best` that of the best
    stage. On similar data the last stage serves best; the more the data differ, the earlier the stage that does, and
    the less any of them says.

    Args:
        model: A functional or built sequential model.
        data: `(x, y)`, arrays with integer labels, or a dataset of such batches that ends; a few hundred examples. With
            few examples, all stages seem to say less than they do: digits 5 to 9, by a network that knows 0 to 4,
            measure 0.9 from a hundred examples per class or more, 0.7 from ten, 0.5 from five and 0.1 from two.
        stages: Integer from 1 to 1000, how many stages, spread over the depth. Defaults to `4`.
        seed: Integer, for the cross-validation.

    Returns:
        A `Similarity`; `float()` of it is the number.

    Raises:
        ValueError: The model's graph can't be read, labels are not integers, or no class has two examples.

    Warns with less than ten examples per class.
    """
    check_integer("stages", stages, 1, 1000)
    check_graph(model)
    y = labels_of("data", data)
    per_class = len(y) / len(np.unique(y))
    if len(y) and np.bincount(y).max() == 1:
        raise ValueError(
            "`data` must hold a class with two examples, one to fit and one to score. With less, judge it yourself: "
            f"`recommend(num_examples, num_classes, 'similar')`. Received: examples={len(y)}, classes={len(y)}"
        )
    if per_class < _FEW:
        warnings.warn(
            f"{per_class:.3g} examples per class say little: the similarity comes out too low. Pass more, or judge it "
            "yourself: `recommend(num_examples, num_classes, 'similar')`",
            stacklevel=2,
        )
    names = stage_names(model, stages)
    probe = linear_probe(model, data, layers=names, penalty=0.01, seed=seed)
    top, best, chance = probe.accuracy[names[-1]], max(probe.accuracy.values()), probe.chance
    above_chance = max(0.0, top - chance) / (1 - chance)
    similarity = above_chance * min(1.0, max(top - chance, 0) / max(best - chance, 1e-9)) if best > chance else 0.0
    reason = (
        f"similarity {similarity:.2f}: a linear layer on the last stage ({names[-1]}) is right in {top:.1%}, on the "
        f"best ({probe.layer}) in {best:.1%}, by chance in {chance:.1%}"
    )
    return Similarity(float(similarity), probe.accuracy, chance, reason)
