"""How alike the data that a model was trained on and new ones are."""

import dataclasses

import keras
import numpy as np

from kregkit._core.checks import check_integer
from kregkit.transfer._graph import check_graph, stage_end, weighted_layers
from kregkit.transfer.linear_probe import linear_probe


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
        data: `(x, y)`, arrays with integer labels; a few hundred examples: with few, all stages seem to say less.
        stages: Integer >= 1, how many stages, spread over the depth. Defaults to `4`.
        seed: Integer, for the cross-validation.

    Returns:
        A `Similarity`; `float()` of it is the number.

    Raises:
        ValueError: The model's graph can't be read, or labels are not integers.
    """
    check_integer("stages", stages, 1)
    check_graph(model)
    names = stage_names(model, stages)
    probe = linear_probe(model, data, layers=names, penalty=0.01, seed=seed)
    top, best, chance = probe.accuracy[names[-1]], max(probe.accuracy.values()), probe.chance
    share = max(0.0, top - chance) / (1 - chance)
    similarity = share * min(1.0, max(top - chance, 0) / max(best - chance, 1e-9)) if best > chance else 0.0
    reason = (
        f"similarity {similarity:.2f}: a linear layer on the last stage ({names[-1]}) is right in {top:.1%}, on the "
        f"best ({probe.layer}) in {best:.1%}, by chance in {chance:.1%}"
    )
    return Similarity(float(similarity), probe.accuracy, chance, reason)


def stage_names(model, count):
    """Returns the names of at most `count` layers spread over the body's depth, the last one included."""
    weighted = weighted_layers(model)
    body = weighted[:-1] if isinstance(weighted[-1], keras.layers.Dense) and len(weighted) > 1 else weighted
    places = sorted({round(place) for place in np.linspace(0, len(body) - 1, count + 1)[1:]})
    return [stage_end(model, body[place]).name for place in places]
