import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from kregkit.data import CenterCrop, RandomFlip, RandomRotation, image_folder, pipeline
from kregkit.data._encoded_streams import EncodedStream, encoded_tfds

y, x = np.mgrid[:40, :60] / 9
PICTURE = (np.stack([np.sin(y), np.cos(x), np.sin(x + y)], -1) * 100 + 128).astype("uint8")
BYTES = [tf.io.encode_jpeg(np.roll(PICTURE, 5 * index, 1), quality=95).numpy() for index in range(3)]
BYTES.append(tf.io.encode_png(PICTURE).numpy())
WHOLE = np.stack([tf.io.decode_image(content, 3).numpy() for content in BYTES])


@pytest.mark.parametrize("form", ["dictionary", "alone"])
def test_streams_of_bytes_are_images(form):
    examples = {"pair": (BYTES, range(4)), "dictionary": {"image": BYTES, "label": range(4)}, "alone": BYTES}[form]
    stream = tf.data.Dataset.from_tensor_slices(examples)
    # A window, and the whole image for what isn't one.
    for operations, expected in (([CenterCrop(24)], WHOLE[:, 8:32, 18:42]), ([RandomFlip(probability=0.0)], WHOLE)):
        (batch,) = pipeline(stream, 4, operations, shuffle=False)
        image = batch if form == "alone" else batch["image" if form == "dictionary" else 0]
        # The colours of a window's edge are interpolated from fewer pixels.
        np.testing.assert_allclose(image * 255, expected, atol=8)
        assert np.abs(image * 255 - expected).mean() < 0.1
    # Texts pass unchanged where there is nothing to do to images.
    assert next(iter(pipeline(tf.data.Dataset.from_tensor_slices(BYTES), 1, shuffle=False)))[0] == BYTES[0]


def test_entries_of_no_size_pass():
    stream = tf.data.Dataset.from_tensor_slices({"image": BYTES, "none": np.zeros((4, 0, 4), "float32")})
    (batch,) = pipeline(stream, 4, [CenterCrop(24)])
    assert batch["image"].shape == (4, 24, 24, 3) and batch["none"].shape == (4, 0, 4)


def test_channels_and_what_is_no_image():
    stream = tf.data.Dataset.from_tensor_slices(BYTES)
    assert next(iter(pipeline(stream, 2, [CenterCrop(8)], channels=1))).shape == (2, 8, 8, 1)
    with pytest.raises(ValueError, match="`channels` must be 1, 3 or 4.*Received: channels=0"):
        pipeline(stream, 2, [CenterCrop(8)], channels=0)
    with pytest.raises(tf.errors.OpError, match="can't be decoded"):
        list(pipeline(tf.data.Dataset.from_tensor_slices([b"text"]), 1, [CenterCrop(8)]))


def test_tfds_sets_of_jpeg_files(tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")

    class Photographs(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        form = "jpeg"

        def _info(self):
            image = tfds.features.Image(shape=(None, None, 3), encoding_format=self.form)
            features = tfds.features.FeaturesDict({"image": image, "label": tfds.features.ClassLabel(num_classes=4)})
            return self.dataset_info_from_configs(features=features, supervised_keys=("image", "label"))

        def _split_generators(self, manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for index, image in enumerate(WHOLE):
                yield index, {"image": image, "label": index}

    builder = Photographs(data_dir=tmp_path, file_format="tfrecord")
    builder.download_and_prepare()
    whole = {int(label): image.numpy() for image, label in builder.as_dataset("train", as_supervised=True)}
    assert isinstance(encoded_tfds(builder, "train", True), EncodedStream)
    for operations in ([CenterCrop(24)], [RandomRotation((0, 0)), CenterCrop(24)]):
        ((images, labels),) = pipeline(builder, 4, operations)
        for image, label in zip(images.numpy(), labels.numpy()):
            np.testing.assert_allclose(image * 255, whole[label][8:32, 18:42], atol=8)


def turned(path):
    """A JPEG file whose EXIF header has it turned by a quarter."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PICTURE).save(path, "JPEG", quality=95, exif=exif)
    return path


@pytest.mark.parametrize("num_before", [10, 6000])
def test_photographs_stand_upright_whatever_precedes_the_header(num_before, tmp_path):
    content = turned(tmp_path / "1.jpg").read_bytes()
    comment = b"\xff\xfe" + (num_before + 2).to_bytes(2, "big") + bytes(num_before)
    stream = tf.data.Dataset.from_tensors(content[:2] + comment + content[2:])
    ((image,),) = pipeline(stream, 1, [CenterCrop(24)], training=False)
    expected = np.rot90(PICTURE, -1)
    top, left = (expected.shape[0] - 24) // 2, (expected.shape[1] - 24) // 2
    assert np.abs(image * 255 - expected[top : top + 24, left : left + 24]).mean() < 4


@pytest.mark.slow
def test_photographs_stand_upright_in_sets_and_streams(tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")
    file = turned(tmp_path / "1.jpg")

    class Turned(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(None, None, 3)),
                "bbox": tfds.features.Tensor(shape=(1, 4), dtype=np.float32),
            }
            return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

        def _split_generators(self, manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            yield 0, {"image": file, "bbox": np.float32([[10, 10, 20, 20]])}

    builder = Turned(data_dir=tmp_path, file_format="tfrecord")
    builder.download_and_prepare()
    stream = tf.data.Dataset.from_tensors({"image": file.read_bytes()})
    upright, stored = np.rot90(PICTURE, -1), PICTURE
    window, whole = [CenterCrop(24)], [RandomRotation((0, 0)), CenterCrop(24)]
    for source, operations, expected, arguments in (
        (builder, window, upright, {"unmoved": "bbox"}),
        (builder, whole, upright, {"unmoved": "bbox"}),
        (builder, window, stored, {"unmoved": "bbox", "orientation": False}),
        # Boxes are those of the image as it is stored.
        (builder, window, stored, {"boxes": "bbox"}),
        (stream, window, upright, {}),
        (stream, whole, stored, {"orientation": False}),
    ):
        (batch,) = pipeline(source, 1, operations, training=False, **arguments)
        height, width = ((side - 24) // 2 for side in expected.shape[:2])
        expected = expected[height : height + 24, width : width + 24]
        assert np.abs(batch["image"][0] * 255 - expected).mean() < 3
    folder = tmp_path / "folder"
    (folder / "a").mkdir(parents=True)
    turned(folder / "a" / "1.jpg")
    ((images, _),) = pipeline(folder, 1, training=False, orientation=False)
    assert images.shape == (1, 40, 60, 3)
    with pytest.raises(ValueError, match="`orientation` of an opened folder goes to `image_folder`"):
        pipeline(image_folder(folder), 1, orientation=False)
