import numpy as np
import pytest
from inference import models as zoo

from kregkit.inference import Ensemble
from kregkit.inference._forward import states
from kregkit.inference.member import Member

X, LABELS = zoo.X, zoo.LABELS


@pytest.fixture(scope="module")
def models():
    """Two of one architecture, which share a graph."""
    return [zoo.classifier(seed) for seed in range(2)]


def test_predicts_as_its_own_model(models):
    for member, model in zip(Ensemble(models).members, models, strict=True):
        np.testing.assert_array_equal(member.predict(X, verbose=0), model.predict(X, verbose=0))
        np.testing.assert_allclose(member(X), model.predict(X, verbose=0), rtol=1e-6)
        assert member.evaluate(X, LABELS, verbose=0) == pytest.approx(model.evaluate(X, LABELS, verbose=0))


def test_a_new_model_with_its_weights(models):
    for member, model in zip(Ensemble(models).members, models, strict=True):
        new = member.to_model()
        np.testing.assert_array_equal(new.predict(X, verbose=0), model.predict(X, verbose=0))
        assert new is not model and not new.compiled
        # What is done to it changes neither the member nor the model.
        expected = member.predict(X, verbose=0)
        new.layers[0].kernel.assign_add(np.ones((6, 5)))
        np.testing.assert_array_equal(member.predict(X, verbose=0), expected)
        np.testing.assert_array_equal(model.predict(X, verbose=0), expected)


def test_knows_its_name_and_how_it_came_about(models):
    given = {"epoch": 3}
    member = Member(*states(models[:1]), "cycle 1", given)
    given["epoch"] = 4
    assert member.name == "cycle 1" and member.information == {"epoch": 3}
    assert repr(member) == f"<Member 'cycle 1' of {models[0].name!r}>"
    assert Ensemble(models).members[1].information == {}
