"""Augmentation inside a model."""

from typing import Any

import keras
import tensorflow as tf

from kregkit._core.backends import require_tensorflow
from kregkit._core.checks import check_seed
from kregkit._core.types import Shape, Tensor
from kregkit.data._random import keys_from_pair
from kregkit.data.augment import Augment


@keras.saving.register_keras_serializable(package="kregkit")
class AugmentLayer(keras.layers.Layer):
    """`Augment` as a Keras layer: random in training, and at test time only what isn't random.

    In `ds.map` the same operations run beside the training step, and each image's randomness is a function of its
    number in the data; in a model they run in it, and draw from the layer's own seed. Labels can't be mixed here.

    Args:
        operations: List of operations, but `MixUp` and `CutMix`.
        value_range: Pair `(low, high)`, the range of the images that come out; float images must be in it already.
        fuse: Boolean, whether to fuse the operations. Defaults to `True`.
        seed: Integer, or `None` (the default) for a random one.

    Input shape: `(batch, height, width, channels)`, uint8 or float.
    Output shape: `(batch, height, width, channels)`, with the size of the crop operations.

    Example:

    >>> import keras
    >>> from kregkit.data import AugmentLayer, RandomFlip, RandomCrop
    >>> layer = AugmentLayer([RandomFlip(), RandomCrop(0, size=24)], seed=0)
    >>> tuple(layer(keras.ops.ones((2, 32, 32, 3)), training=True).shape)
    (2, 24, 24, 3)
    """

    def __init__(
        self,
        operations: Any,
        value_range: tuple[float, float] = (0.0, 1.0),
        fuse: bool = True,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        require_tensorflow("AugmentLayer")
        # Autocasting would round float images to half precision before they are moved.
        super().__init__(autocast=False, **kwargs)
        if isinstance(operations, (list, tuple)):
            operations = [
                keras.saving.deserialize_keras_object(one) if isinstance(one, dict) else one for one in operations
            ]
        self._augment = Augment(operations, value_range, fuse)
        if self._augment.mixes:
            raise ValueError(
                f"`operations` must not mix labels, which a layer doesn't see. Received: operations={operations}"
            )
        self.operations = self._augment.operations
        self.value_range = self._augment.value_range
        self.fuse = fuse
        self.seed = check_seed("seed", seed)
        self.generator = keras.random.SeedGenerator(seed)
        self.supports_masking = False

    def call(self, inputs: Tensor, training: bool = False) -> Any:
        if isinstance(inputs, (dict, tuple, list)):
            raise ValueError(
                "A layer takes images alone, one tensor: boxes, masks and labels go with them through `pipeline`, or "
                f"`Augment(operations)(images, keys, boxes=...)`. Received: a {type(inputs).__name__}"
            )
        inputs = tf.convert_to_tensor(inputs)
        if inputs.dtype not in (tf.uint8, tf.float32):
            inputs = tf.cast(inputs, tf.float32)
        pair = self.generator.next() if training else tf.zeros((2,), tf.int64)
        outputs = self._augment(inputs, keys_from_pair(pair, tf.shape(inputs)[0]), training=bool(training))
        return tf.cast(outputs, self.compute_dtype)

    def compute_output_shape(self, input_shape: Shape) -> Any:
        height, width = input_shape[1:3]
        for operation in self.operations:
            if hasattr(operation, "output_size"):
                height, width = operation.output_size(height, width)
        return (input_shape[0], height, width, input_shape[3])

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "operations": [keras.saving.serialize_keras_object(one) for one in self.operations],
            "value_range": tuple(self.value_range),
            "fuse": self.fuse,
            "seed": self.seed,
        }
