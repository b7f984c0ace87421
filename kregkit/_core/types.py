"""Names for the types that public signatures share."""

import os
from typing import Any, TypeAlias

from numpy.typing import ArrayLike

# What `fit` takes as `x`, or as its validation data: arrays, structures of them, a `tf.data.Dataset`, a `PyDataset`.
Data: TypeAlias = Any
# A tensor of the backend, symbolic or not, or what Keras makes one of.
Tensor: TypeAlias = Any
# A shape as Keras has it: integers, and None for what isn't known.
Shape: TypeAlias = Any
# A loss as `compile` takes it; None for the compiled one.
Loss: TypeAlias = Any
# A number, a Keras schedule, or a callable without arguments.
LearningRate: TypeAlias = Any
Path: TypeAlias = str | os.PathLike[str]

__all__ = ["ArrayLike", "Data", "LearningRate", "Loss", "Path", "Shape", "Tensor"]
