"""All variables of a run, wherever they are kept."""

import keras
import numpy as np
import tensorflow as tf

from kregkit.callbacks._run_variables import RunVariables, as_arrays


class Counting(keras.layers.Layer):
    """Keeps TensorFlow's own variables where Keras doesn't look for any."""

    def __init__(self):
        super().__init__()
        self.alone = tf.Variable(1.0, trainable=False)
        self.listed = [tf.Variable(2.0, trainable=False), (tf.Variable(3.0, trainable=False),)]
        self.named = {"inner": {"deeper": tf.Variable(4.0, trainable=False)}}
        self.generators = [tf.random.Generator.from_seed(5)]
        self.itself = [self.listed, None]
        self.itself.append(self.itself)

    def call(self, inputs):
        return inputs


def test_variables_in_lists_and_dictionaries_are_among_them():
    layer = Counting()
    model = keras.Sequential([keras.Input((2,)), layer, keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    variables = RunVariables(model)
    mine = [layer.alone, layer.listed[0], layer.listed[1][0], layer.named["inner"]["deeper"], layer.generators[0].state]
    assert all(any(one is variable for variable in variables.state) for one in mine)
    values = as_arrays(variables.read(variables.state))
    layer.listed[1][0].assign(30.0)
    layer.generators[0].normal((3,))
    variables.assign(variables.state, values)
    assert layer.listed[1][0].numpy() == 3.0
    np.testing.assert_array_equal(layer.generators[0].state, tf.random.Generator.from_seed(5).state)
