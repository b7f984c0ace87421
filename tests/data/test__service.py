"""Batches made by the workers of a tf.data service."""

import struct

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from kregkit import data
from kregkit.data._image_files_in_graph import in_graph
from kregkit.data._service import _in_order

pytestmark = pytest.mark.one_in(2)

IMAGES = np.random.default_rng(0).integers(0, 255, (22, 8, 8, 1)).astype("uint8")
LABELS = np.arange(22) % 3


@pytest.fixture(scope="module")
def service():
    """Returns the address of a dispatcher with two workers."""
    dispatcher = tf.data.experimental.service.DispatchServer()
    address = dispatcher.target.removeprefix("grpc://")
    config = tf.data.experimental.service.WorkerConfig(
        dispatcher_address=address, heartbeat_interval_ms=100, dispatcher_timeout_ms=10_000
    )
    workers = [tf.data.experimental.service.WorkerServer(config) for _ in range(2)]
    yield dispatcher.target
    del workers


def batches(dataset):
    return [[part.numpy() for part in tf.nest.flatten(batch)] for batch in dataset]


def assert_same(dataset, expected):
    pairs = list(zip(batches(dataset), batches(expected), strict=True))
    assert pairs
    for one, other in pairs:
        for part, expected_part in zip(one, other, strict=True):
            np.testing.assert_array_equal(part, expected_part)


def operations():
    return [data.RandomCrop(1), data.MixUp(0.3, num_classes=3)]


@pytest.mark.parametrize(
    "options",
    [{}, pytest.param({"batch": 1, "epoch": 3, "shard": (1, 2), "drop_remainder": True}, marks=pytest.mark.slow)],
)
def test_the_batches_are_the_same(service, options):
    made = [data.pipeline((IMAGES, LABELS), 4, operations(), seed=3, service=one, **options) for one in (service, None)]
    assert made[0].element_spec == made[1].element_spec
    assert int(made[0].cardinality()) == int(made[1].cardinality())
    for _ in range(2):  # each pass is another epoch
        assert_same(*made)
        assert made[0].epoch.numpy() == made[1].epoch.numpy() > 0


@pytest.mark.parametrize("window", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_single_images_from_a_folder(window, service, tmp_path):
    for label in range(2):
        (tmp_path / f"class{label}").mkdir()
        for index in range(4):
            content = tf.io.encode_jpeg(IMAGES[4 * label + index, :, :6].repeat(3, -1)).numpy()
            # An EXIF header with one entry: the orientations 5 to 8 turn the image on its side.
            entry = b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, 1 + 4 * label + index, 0, 0)
            header = b"\xff\xe1" + struct.pack(">H", len(entry) + 8) + b"Exif\0\0" + entry
            (tmp_path / f"class{label}" / f"{index}.jpg").write_bytes(content[:2] + header + content[2:])
    operations = [data.RandomResizedCrop(4)] if window else []
    made = [data.pipeline(tmp_path, 1, operations, seed=1, service=one) for one in (service, None)]
    assert_same(*made)
    if window:
        return
    with pytest.raises(ValueError, match=r"0\.jpg can't be read: it would have 48 pixels, more than `max_pixels=47`"):
        data.pipeline(data.image_folder(tmp_path, max_pixels=47), 1, service=service)
    assert {batch[0].shape[1:3] for batch in batches(made[0])} == {(8, 6), (6, 8)}


@pytest.mark.parametrize("content", [None, b"\xff\xd8\xff\xe0 no image \xff\xd9"], ids=["gone", "damaged"])
def test_an_image_that_cannot_be_read_is_an_error_and_no_smaller_batch(content, service, tmp_path):
    (tmp_path / "a").mkdir()
    files = [tmp_path / "a" / f"{index}.jpg" for index in range(3)]
    for file in files:
        file.write_bytes(tf.io.encode_jpeg(IMAGES[0].repeat(3, -1)).numpy())
    dataset = data.pipeline(tmp_path, 3, [data.CenterCrop(4)], service=service)
    files[1].unlink()
    if content is not None:
        files[1].write_bytes(content)
    with pytest.raises(tf.errors.OpError):
        list(dataset)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_files_give_what_they_give_without_a_service(channels, bits, tmp_path):
    color = np.random.default_rng(0).integers(0, 256, (5, 7, 4), "uint8")
    alpha = Image.fromarray(color)
    kinds = {
        "color.jpg": alpha.convert("RGB"), "cmyk.jpg": alpha.convert("CMYK"), "grey.jpg": alpha.convert("L"),
        "color.png": alpha.convert("RGB"), "alpha.png": alpha, "grey.png": alpha.convert("L"),
        "grey_alpha.png": alpha.convert("LA"), "one_bit.png": alpha.convert("1"), "palette.png": alpha.quantize(8),
    }  # fmt: skip
    (tmp_path / "a").mkdir()
    for name, image in kinds.items():
        image.save(tmp_path / "a" / name)
    (tmp_path / "a" / "deep.png").write_bytes(tf.io.encode_png(color.astype("uint16") * 250).numpy())
    source = data.image_folder(tmp_path, channels=channels, bits=bits)
    for index, path in enumerate(source.paths):
        image = in_graph(source).whole(tf.constant(index))
        np.testing.assert_array_equal(image, source[index][0], err_msg=path, strict=True)


@pytest.mark.slow
def test_fit_reads_it(service):
    import keras

    train = data.pipeline((IMAGES, LABELS), 4, [data.RandomCrop(1)], seed=1, service=service)
    losses = []
    for dataset in (train, data.pipeline((IMAGES, LABELS), 4, [data.RandomCrop(1)], seed=1)):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(3)])
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        losses.append(model.fit(dataset, epochs=2, verbose=0, shuffle=False).history["loss"])
    assert losses[0] == losses[1]
    assert train.epoch.numpy() == 2


def in_order(numbers, first, end):
    """Puts batches that come in the order `numbers` in order, each holding its number."""
    dataset = tf.data.Dataset.from_tensor_slices(np.asarray(numbers, "int64"))
    dataset = dataset.map(lambda number: (number, (number, tf.fill([number + 1], number))))
    return [(int(number), values.numpy().tolist()) for number, values in _in_order(dataset, np.int64(first), end)]


@pytest.mark.parametrize("numbers", [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [1, 0, 4, 2, 3]])
def test_batches_that_come_too_early_wait(numbers):
    assert in_order(numbers, 0, 5) == [(number, [number] * (number + 1)) for number in range(5)]
    assert in_order(numbers, 0, 5)[2:] == in_order([number for number in numbers if number >= 2], 2, 5)


@pytest.mark.parametrize("numbers", [[0, 1, 3, 4], [0, 1, 2], []])
def test_lost_batches_are_an_error(numbers):
    with pytest.raises(tf.errors.InvalidArgumentError, match="lost batches"):
        in_order(numbers, 0, 5)


@pytest.mark.parametrize(
    "address", ["localhost:5000", "http://localhost:5000", "grpc://localhost", "grpc://a:b", 5, ""]
)
def test_refuses_what_is_no_address(address):
    with pytest.raises(ValueError, match=r"`service` must be the address.*Received: service="):
        data.pipeline((IMAGES, LABELS), 4, service=address)


def test_says_that_nobody_answers():
    with pytest.raises(ConnectionError, match=r"No dispatcher answers.*Received: service="):
        data.pipeline((IMAGES, LABELS), 4, service="grpc://127.0.0.1:1")


def test_refuses_what_other_processes_cannot_read(service, tmp_path):
    pairs = list(zip(IMAGES, LABELS))
    with pytest.raises(ValueError, match=r"Python code of this process"):
        data.pipeline(_Sequence(pairs), 4, service=service)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"1\.jpg can't be read: it is empty"):
        data.pipeline(data.image_folder(tmp_path), 4, service=service)
    (tmp_path / "a" / "1.jpg").rename(tmp_path / "a" / "1.gif")
    (tmp_path / "a" / "1.gif").write_bytes(b"GIF89a")
    with pytest.raises(ValueError, match=r"JPEG or PNG.*1.gif"):
        data.pipeline(data.image_folder(tmp_path), 4, service=service)
    with pytest.raises(ValueError, match=r"`cache=False` and `on_error='raise'`"):
        data.pipeline(data.image_folder(tmp_path, cache=True), 4, service=service)
    with pytest.raises(ValueError, match=r"random access.*Received: service="):
        data.pipeline(tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)), 4, service=service)


class _Sequence:
    def __init__(self, pairs):
        self.pairs = pairs

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, index):
        return self.pairs[index]
