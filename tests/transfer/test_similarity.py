import numpy as np
import pytest
from transfer.models import dense, values, vectors

from kregkit.transfer import measure_similarity

pytestmark = pytest.mark.trains


def test_order_of_same_related_and_unrelated_data(trained, sets):
    before = values(trained)
    rng = np.random.default_rng(0)
    x, y = sets["new"]
    shuffled = rng.permutation(y)
    found = [measure_similarity(trained, data) for data in (sets["old"], sets["new"], (x, shuffled))]
    same, related, unrelated = map(float, found)
    assert 0.95 < same <= 1 and same > related > unrelated + 0.3 and 0 <= unrelated < 0.25
    assert values(trained) == before
    assert list(found[0].accuracy) == ["relu_2", "relu_3", "relu_4"] or list(found[0].accuracy)[-1] == "relu_4"
    assert f"similarity {related:.2f}: a linear layer on the last stage (relu_4)" in str(found[1])


def test_formula_by_hand(monkeypatch):
    from kregkit.transfer import similarity
    from kregkit.transfer.probing import LinearProbe

    names = similarity.stage_names(dense(), 4)
    accuracy, seeds = dict(zip(names, [0.9, 0.7])), []

    def probe(model, data, seed, **arguments):
        seeds.append(seed)
        return LinearProbe(accuracy, 0.2, None, names[0])

    monkeypatch.setattr(similarity, "linear_probe", probe)
    x, y = vectors()
    # (0.7 - 0.2) / 0.8 * (0.7 - 0.2) / (0.9 - 0.2)
    assert names == ["norm", "middle"]
    assert float(measure_similarity(dense(), (x, y), seed=3)) == pytest.approx(0.625 * 5 / 7) and seeds == [3]


def test_as_many_stages_as_asked():
    x, y = vectors()
    assert [list(measure_similarity(dense(), (x, y), stages).accuracy) for stages in (1, 2)] == [
        ["middle"],
        ["norm", "middle"],
    ]


def test_few_examples_are_told():
    x, y = vectors(18)
    with pytest.warns(UserWarning, match="^9 examples per class say little.*too low"):
        measure_similarity(dense(), (x, y * 0 + np.arange(18) % 2))
    with pytest.raises(ValueError, match="two examples.* Received: examples=4"):
        measure_similarity(dense(), (x[:4], np.arange(4)))


def test_refuses():
    x, y = vectors()
    with pytest.raises(ValueError, match="Received: stages=0"):
        measure_similarity(dense(), (x, y), stages=0)
    with pytest.raises(ValueError, match="integers"):
        measure_similarity(dense(), (x, y / 2))
