import keras
import pytest

from kregkit.data import digits
from kregkit.transfer import digits_backbone


@pytest.fixture(scope="session")
def trained():
    """A network that knows the digits 0 to 4; tests leave it as it is."""
    return digits_backbone(epochs=5)


@pytest.fixture(scope="session")
def sets():
    """Dictionary from `old` (0 to 4) and `new` (5 to 9) to images in [0, 1] and labels from 0; and `test` of `new`."""
    x, y = digits("train", as_arrays=True)
    x_test, y_test = digits("test", as_arrays=True)
    x, x_test = x.astype("float32") / 255, x_test.astype("float32") / 255
    return {
        "old": (x[y < 5][:300], y[y < 5][:300]),
        "new": (x[y > 4][:300], y[y > 4][:300] - 5),
        "test": (x_test[y_test > 4], y_test[y_test > 4] - 5),
    }


@pytest.fixture
def copy(trained):
    model = keras.models.clone_model(trained)
    model.set_weights(trained.get_weights())
    return model
