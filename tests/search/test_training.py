import itertools
import pathlib
import pickle
import sys
import warnings

import keras
import pytest
import tensorflow as tf

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import _trains

from kregkit.search import build_and_fit

pytestmark = pytest.mark.trains


def build_with_arguments(parameters):
    return _trains.build(parameters), {"batch_size": parameters["size"]}


class Steps(keras.callbacks.Callback):
    seen = ()

    def on_train_begin(self, logs=None):
        # Deep-copied for each fit, a callback that remembers starts anew.
        assert not hasattr(self, "used")
        self.used = True
        Steps.seen = (*Steps.seen, self.params["steps"])


def test_fits_what_build_returns():
    x, y = _trains.data()
    Steps.seen = ()
    train = build_and_fit(build_with_arguments, (x, y), (x[:8], y[:8]), callbacks=[Steps()])
    for size in (8, 32):
        history = train({"rate": 0.01, "size": size}, 3, [])
        assert len(history.history["val_loss"]) == 3
    assert Steps.seen == (8, 2)
    # What `build` gives is the same as fitting by hand.
    keras.utils.set_random_seed(3)
    ours = build_and_fit(_trains.build, (x, y, y[:, 0] ** 2), (x, y))({"rate": 0.01}, 2).history
    keras.utils.set_random_seed(3)
    model = _trains.build({"rate": 0.01})
    plain = model.fit(x, y, sample_weight=y[:, 0] ** 2, validation_data=(x, y), epochs=2, verbose=0).history
    assert ours == plain


def test_takes_datasets_and_pickles():
    dataset = tf.data.Dataset.from_tensor_slices(_trains.data()).batch(16)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="`shuffle=True` was passed")
        assert "val_loss" in build_and_fit(_trains.build, dataset, dataset)({"rate": 0.01}, 1).history
    assert pickle.loads(pickle.dumps(build_and_fit(_trains.build, _trains.data()))).validation_data is None


def test_takes_a_py_dataset_that_iterates_itself():
    """As the iterators of Keras's `ImageDataGenerator` do."""

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 1

        def __getitem__(self, index):
            return _trains.data()

        def __next__(self):
            return self[0]

    train = build_and_fit(_trains.build, Batches())
    assert [len(train({"rate": 0.01}, 2).history["loss"]) for _ in range(2)] == [2, 2]


def test_takes_a_generator_without_end_with_a_number_of_steps():
    train = build_and_fit(_trains.build, (_trains.data() for _ in itertools.count()), steps_per_epoch=1)
    assert [len(train({"rate": 0.01}, 2).history["loss"]) for _ in range(2)] == [2, 2]


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: build_and_fit(None, ()), "build"),
        (lambda: build_and_fit(_trains.build, (), epochs=3), "epochs"),
        (lambda: build_and_fit(_trains.build, iter([_trains.data()])), "`train_data` must be readable again"),
        (
            lambda: build_and_fit(_trains.build, _trains.data(), (one for one in ())),
            "`validation_data` must be readable",
        ),
        (lambda: build_and_fit(lambda _: keras.Sequential(), _trains.data())({}, 1), "compiled"),
    ],
)
def test_bad_arguments_are_refused(make, text):
    with pytest.raises(ValueError, match="Received: ") as error:
        make()
    assert text in str(error.value)


def test_it_prints_as_the_call_without_the_data():
    x, y = _trains.data()
    train = build_and_fit(_trains.build, (x, y), (x, y), batch_size=4)
    assert repr(train) == "build_and_fit(build, <data>, <validation data>, batch_size=4)"
    assert repr(build_and_fit(_trains.build, (x, y))) == "build_and_fit(build, <data>)"
