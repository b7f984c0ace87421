"""What a user writes with the layers; read by the type checker, never run."""

from typing import assert_type

import keras

from kregkit import layers


def build(blocks: int) -> keras.Model:
    survival = layers.linear_survival(blocks, final=0.5)
    assert_type(survival, list[float])
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(16, 3, padding="same")(inputs)
    for probability in survival:
        branch = keras.Sequential([keras.layers.Conv2D(16, 3, padding="same"), keras.layers.ReLU()])
        x = layers.StochasticDepth(branch, probability, mode="sample", layer_scale=1e-6)(x)
    x = layers.DropBlock2D(0.1, block_size=3)(x)
    x = layers.FractionalMaxPooling2D(1.4)(x)
    x = layers.MaxoutConv2D(8, (3, 3), pieces=2, padding="same")(x)
    x = keras.layers.Flatten()(layers.DropPath(0.1, seed=1)(x))
    x = layers.DropConnect(keras.layers.Dense(10), rate=0.5, mask="example", inference="gaussian")(x)
    return keras.Model(inputs, layers.Maxout(10, pieces=3)(x))
