"""Stochastic layers: noise that exists while training, and that `kregkit.inference` draws to average over it.

Every stochastic layer here has two methods with one signature. `call` draws noise if `training` is true and computes
the expectation, or another fixed choice, if not. `draw_call` always draws, by the training rule, and hands `training`
to the layers inside unchanged. So a model predicts with noise when each layer's `draw_call` takes the place of its
`call` while the model is called with `training=False`:
BatchNormalization, inside a branch too, goes on using its running statistics, and no state but the seeds changes.
Noise comes from the layer's `seed_generator`; setting its `state` repeats a draw.

A layer of your own can follow the same protocol, which `docs/inference.md` describes ("Noise layers of your own"):
`seed_generator`, `draw_call` and `uniform`, and where they help `noise_source`, `expected_call` and `rate_attribute`.
"""

from kregkit._core.words import missing_names
from kregkit.layers.drop_block_2d import DropBlock2D
from kregkit.layers.drop_connect import DropConnect
from kregkit.layers.drop_path import DropPath
from kregkit.layers.fractional_max_pooling import (
    FractionalMaxPooling1D,
    FractionalMaxPooling2D,
    FractionalMaxPooling3D,
)
from kregkit.layers.maxout import Maxout
from kregkit.layers.maxout_conv2d import MaxoutConv2D
from kregkit.layers.region_pooling import fractional_max_pool
from kregkit.layers.stochastic_depth import StochasticDepth, linear_survival

__all__ = [
    "DropBlock2D",
    "DropConnect",
    "DropPath",
    "FractionalMaxPooling1D",
    "FractionalMaxPooling2D",
    "FractionalMaxPooling3D",
    "Maxout",
    "MaxoutConv2D",
    "StochasticDepth",
    "fractional_max_pool",
    "linear_survival",
]

__getattr__ = missing_names(__name__)
