import pytest
import tensorflow as tf

from kregkit.data._graph_checks import require, text, text_of


def positive(x):
    require(x > 0, lambda: text("A number must be > 0: ", x))
    return x + 1


def test_stops_eagerly_and_in_graphs_with_its_text():
    assert int(positive(tf.constant(1))) == 2
    with pytest.raises(ValueError, match=r"^A number must be > 0: -1$"):
        positive(tf.constant(-1))
    for run in (tf.function(positive), lambda x: next(iter(tf.data.Dataset.from_tensors(x).map(positive)))):
        assert int(run(tf.constant(1))) == 2
        with pytest.raises(tf.errors.InvalidArgumentError) as error:
            run(tf.constant(-1))
        assert text_of(error.value) == "A number must be > 0: -1"


def test_other_errors_have_no_text():
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        tf.reshape(tf.zeros(3), (2, 2))
    assert text_of(error.value) is None


def test_xla_compiles_what_it_cannot_check():
    assert int(tf.function(positive, jit_compile=True)(tf.constant(-1))) == 0


def test_text_of_numbers():
    assert text("a ", tf.constant(1), " ", tf.constant(0.5), " ", tf.constant("b")).numpy() == b"a 1 0.5 b"
