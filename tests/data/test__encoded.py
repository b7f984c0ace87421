"""JPEG files whose windows alone are decoded, compared with the whole image cut afterwards."""

import io
import os

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from kregkit.data import (
    Augment,
    CenterCrop,
    ColorJitter,
    LensDistortion,
    MixUp,
    RandomCrop,
    RandomFlip,
    RandomResizedCrop,
    RandomRotation,
    RandomShear,
    RandomStretch,
    RandomTranslation,
    ResizeShortSide,
    TrivialAugment,
    image_folder,
    make_keys,
    pipeline,
)
from kregkit.data._encoded import CHUNK
from kregkit.data._windows import windows

pytestmark = pytest.mark.one_in(2)

SIZES = ((61, 90), (150, 119), (203, 341))
NUM = 9


def smooth(height, width):
    """A picture without detail finer than what a decoder at an eighth of the size keeps."""
    y, x = np.mgrid[:height, :width] / 40
    return np.stack([np.sin(y + x), np.cos(y - 2 * x), np.sin(3 * y) * np.cos(x)], -1) * 100 + 128


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Photographs of three sizes, turned in all ways by their EXIF header, a grey one, and a PNG file."""
    root = tmp_path_factory.mktemp("photographs")
    (root / "a").mkdir()
    for index in range(NUM):
        image = Image.fromarray(smooth(*SIZES[index % 3]).astype("uint8"))
        exif = Image.Exif()
        if index not in (0, 6):
            exif[0x0112] = (1, 6, 3, 4, 7, 8, 1, 2, 5)[index]
        if index == 7:
            image = image.convert("L")
        name = f"{index}.png" if index == 6 else f"{index}.jpg"
        image.save(root / "a" / name, exif=exif, **({} if index == 6 else {"quality": 95}))
    return root


CROPS = {
    "resized": [RandomFlip("both"), RandomResizedCrop((40, 30), scale=(0.05, 1.0))],
    "copied": [RandomFlip("both"), RandomCrop(0, size=(48, 56)), RandomFlip(), ColorJitter(0.2, 0.2, 0.2)],
    "short side": [ResizeShortSide((32, 60)), RandomCrop(0, size=30), RandomFlip()],
    "centre": [ResizeShortSide(50), CenterCrop(48)],
    "turned": [RandomResizedCrop((40, 30), scale=(0.05, 1.0)), RandomRotation(30), RandomFlip("both"), ColorJitter()],
    "mirrored": [ResizeShortSide((32, 60)), RandomShear(30, fill="reflect"), CenterCrop(30)],
}


@pytest.mark.parametrize(("name", "training"), [(name, name != "centre") for name in CROPS])
def test_windows_agree_with_cutting_the_whole_image(name, training, folder):
    operations = CROPS[name]
    source = image_folder(folder)
    arguments = {"training": training, "with_keys": True, "seed": 3, "epoch": 1}
    assert windows(Augment(operations), training) is not None
    (((images, _), keys),) = pipeline(source, NUM, operations, **arguments)
    numbers = {int(key): index for index, key in enumerate(make_keys(3, 1, np.arange(NUM)).numpy())}
    if name == "resized":
        # Decoded whole, and shrunk by means where the decoder shrinks.
        (((cached, _), _),) = pipeline(image_folder(folder, cache=True), NUM, operations, **arguments)
        np.testing.assert_allclose(images, cached, atol=0.05)
        assert np.abs(images - cached).mean() < 0.004
    augment = Augment(operations)
    for image, key in zip(images.numpy(), keys.numpy()):
        expected = augment(source[numbers[key]][0], key, training=training).numpy()
        assert np.abs(image - expected).mean() < 0.012 and np.abs(image - expected).max() < 0.1


def test_every_kind_of_window_is_resampled_as_the_whole_image_is(tmp_path):
    """PNG files and noise, so that nothing but the resampling could differ."""
    images = np.random.default_rng(0).integers(0, 256, (24, 30, 40, 3), "uint8")
    (tmp_path / "a").mkdir()
    for index, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / "a" / f"{index:02d}.png")
    crop = RandomResizedCrop((24, 28), scale=(0.05, 1.0))
    augment = Augment([crop, RandomFlip()])
    keys = make_keys(3, 0, np.arange(24))
    kinds = windows(augment, True).plans(keys[:16], tf.constant([[30, 40]] * 16), tf.ones([16], tf.int32)).how.kind
    assert {1, 2, 3} <= set(kinds.numpy().tolist())
    ((found, _),) = pipeline(image_folder(tmp_path), 24, augment, seed=3, shuffle=False)
    np.testing.assert_allclose(found, augment(images, keys), atol=2e-3)
    # What is enlarged is interpolated with the pixels behind the window's edges.
    enlarge = Augment([CenterCrop(8), ResizeShortSide(16), CenterCrop(16)])
    ((found, _),) = pipeline(image_folder(tmp_path), 24, enlarge, shuffle=False)
    np.testing.assert_allclose(found, enlarge(images, keys), atol=2e-3)


REFLECTED = [one(0.9, fill="reflect") for one in (RandomStretch, RandomTranslation)]
WARPS = {
    "turned": [RandomResizedCrop((24, 28), scale=(0.05, 1.0)), RandomRotation(40), RandomFlip("both")],
    "padded": [RandomCrop(6, size=(28, 36)), RandomFlip("both")],
    "reflected": [ResizeShortSide((20, 40)), RandomCrop(0, size=18), *REFLECTED, RandomShear(60, fill="reflect")],
    "nearest": [RandomTranslation(1.0, 1.0, fill="nearest"), CenterCrop(20)],
    "automatic": [RandomResizedCrop(24), RandomFlip(), TrivialAugment()],
    "test time": [ResizeShortSide((28, 44)), RandomRotation(40), RandomCrop(6, size=(40, 36)), RandomFlip("both")],
}


@pytest.mark.parametrize("name", WARPS)
def test_windows_hold_all_that_warps_reach(name, tmp_path):
    """PNG files and noise, so that nothing but the resampling could differ."""
    images = np.random.default_rng(1).integers(0, 256, (24, 30, 40, 3), "uint8")
    (tmp_path / "a").mkdir()
    for index, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / "a" / f"{index:02d}.png")
    augment, training = Augment(WARPS[name], value_range=(-1.0, 1.0)), name != "test time"
    assert windows(augment, training) is not None
    ((found, _),) = pipeline(image_folder(tmp_path), 24, augment, seed=3, training=training, shuffle=False)
    expected = augment(images, make_keys(3, 0, np.arange(24)), training=training)
    # Where a sample lies on the image's border, rounding decides whether it shows black.
    assert np.mean(np.abs(found - expected) > 2e-3) < 1e-3


def test_no_more_is_decoded_than_a_warp_reaches():
    def plan(height, width, *operations):
        return windows(Augment(list(operations)), True).plan(
            make_keys(0, 0, 0), tf.constant([height, width]), tf.constant(1)
        )

    # Samples lie up to 15 / sqrt(2) = 10.6 pixels from the centre: rows 38.9 to 60.1, columns 48.9 to 70.1.
    found = plan(100, 120, CenterCrop(16), RandomRotation((45, 45)))
    assert found.window.numpy().tolist() == [38, 48, 24, 24] and found.factor == 1
    # Rows 92.3 to 107.3, of which those beyond 99.5 come back as 91.7 and later ones; columns 51.64 to 66.64.
    found = plan(100, 120, RandomTranslation((-0.503, -0.503), (0.003, 0.003), fill="reflect"), CenterCrop(16))
    assert found.window.numpy().tolist() == [91, 51, 9, 17] and found.factor == 1
    # Twelve pixels of each are one of the output; a decoder can shrink them to an eighth, where samples lie between
    # 6 / 8 - 1 / 2 and 114 / 8 - 1 / 2.
    found = plan(120, 200, CenterCrop(120), RandomResizedCrop(10, (1.0, 1.0), (1.0, 1.0)), RandomRotation((90, 90)))
    assert found.window.numpy().tolist() == [0, 5, 15, 15] and found.factor == 8
    # The axis that is shrunk less decides: by 1.5, 2.1 and 4.8.
    for side, factor in ((80, 1), (56, 2), (25, 4)):
        resize = RandomResizedCrop((side, side // 2), (1.0, 1.0), (1.0, 1.0))
        assert plan(120, 200, CenterCrop(120), resize, RandomRotation((90, 90))).factor == factor
    # What is halved is halved at any angle, however it is rounded.
    for angle in range(0, 360, 25):
        assert plan(64, 80, ResizeShortSide(32), CenterCrop(32), RandomRotation((angle, angle))).factor == 2


def test_what_windows_can_do():
    def can(*operations):
        return windows(Augment(list(operations)), True) is not None

    assert can(RandomResizedCrop(8), ColorJitter(), RandomFlip()) and can(CenterCrop(8))
    assert not can() and not can(RandomFlip()) and not can(ColorJitter(), CenterCrop(8))
    assert can(RandomRotation(), CenterCrop(8)) and can(RandomCrop(2, size=8)) and not can(ResizeShortSide(8))
    assert not can(CenterCrop(8), LensDistortion())


@pytest.mark.slow
def test_same_batches_at_any_parallelism_shard_and_start(folder):
    operations = [RandomResizedCrop(16), RandomFlip(), MixUp(num_classes=2)]

    def looks(batch_size=3, **arguments):
        dataset = pipeline(image_folder(folder), batch_size, operations, with_keys=True, epoch=1, **arguments)
        return {int(k): x for (xs, _), ks in dataset for x, k in zip(xs.numpy(), ks.numpy())}

    whole = looks()
    assert len(whole) == NUM
    other = looks(2, shard=(1, 2), batch=1, num_parallel_calls=1)
    assert len(other) == 2
    for key, image in other.items():
        np.testing.assert_allclose(image, whole[key], atol=1e-5)


def test_unreadable_files_are_named_or_skipped(tmp_path):
    content = io.BytesIO()
    Image.fromarray(smooth(60, 80).astype("uint8")).save(content, "JPEG")
    content = content.getvalue()
    head, _, rest = content.partition(b"\xff\xc0")
    files = {
        "1 good": content,
        "2 cut off": content[:-200],
        "3 empty": b"",
        "4 gone": b"",
        "5 text": b"hello" * 99,
        "6 bomb": head + b"\xff\xc0" + rest[:3] + b"\xff\xf0\xff\xf0" + rest[7:],
        "7 good": content,
        "8 last": b"\xff\xd8\xff",
    }
    (tmp_path / "a").mkdir()
    for name, one in files.items():
        (tmp_path / "a" / f"{name}.jpg").write_bytes(one)
    sources = [image_folder(tmp_path, on_error=how, max_pixels=5000) for how in ("skip", "raise")]
    os.remove(tmp_path / "a" / "4 gone.jpg")
    operations = [CenterCrop(32)]
    dataset = pipeline(sources[0], 2, operations)
    for _ in range(2):
        assert sum(len(y) for _, y in dataset) == 2
    assert int(dataset.epoch) == 2
    skipped = {os.path.basename(path): reason for path, reason in sources[0].skipped.items()}
    assert set(skipped) == {f"{name}.jpg" for name in files if "good" not in name}
    assert "more than `max_pixels=5000`" in skipped["6 bomb.jpg"]
    found = []
    dataset = pipeline(sources[1], 1, operations, shuffle=False)
    with pytest.raises(tf.errors.OpError, match=r"The image file .*2 cut off\.jpg can't be read"):
        for x, _ in dataset:
            found.append(x)
    assert len(found) == 1
    # The last one is missed too.
    for name in list(files)[1:6]:
        (tmp_path / "a" / f"{name}.jpg").write_bytes(content)
    with pytest.raises(tf.errors.OpError, match=r"The image file .*8 last\.jpg can't be read"):
        for x, _ in dataset:
            found.append(x)
    assert len(found) == 8


@pytest.fixture
def third_broken(tmp_path):
    (tmp_path / "a").mkdir()
    for number in range(3):
        Image.fromarray(smooth(40, 50).astype("uint8")).save(tmp_path / "a" / f"{number}.jpg")
    (tmp_path / "a" / "2.jpg").write_bytes(b"text")
    return tmp_path


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_a_file_that_tensorflow_alone_cannot_decode_is_named(on_error, tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    for number in range(5):
        kind = "bmp" if number == 1 else "jpg"
        Image.fromarray(smooth(40, 50 + number).astype("uint8")).save(tmp_path / "a" / f"{number}.{kind}")
    bad = (tmp_path / "a" / "2.jpg").read_bytes()

    def refusing(decode):
        def run(content, *args, **kwargs):
            with tf.control_dependencies([tf.debugging.Assert(tf.convert_to_tensor(content) != bad, ["refused"])]):
                return decode(content, *args, **kwargs)

        return run

    monkeypatch.setattr(tf.image, "decode_and_crop_jpeg", refusing(tf.image.decode_and_crop_jpeg))
    monkeypatch.setattr(tf.io, "decode_jpeg", refusing(tf.io.decode_jpeg))
    source = image_folder(tmp_path, on_error=on_error)
    dataset = pipeline(source, 4, [CenterCrop(16)], shuffle=False)
    if on_error == "skip":
        assert [len(y) for _, y in dataset] == [4]
        assert list(source.skipped.values()) == ["its window can't be decoded"]
    else:
        with pytest.raises(tf.errors.OpError, match=r"2\.jpg can't be read: its window can't be decoded"):
            list(dataset)


@pytest.mark.slow
def test_an_unreadable_partner_is_named_itself(third_broken):
    for seed in range(4):
        operations = [CenterCrop(32), MixUp(1.0, num_classes=2)]
        with pytest.raises(tf.errors.OpError, match=r"2\.jpg can't be read: by its contents"):
            list(pipeline(third_broken, 1, operations, shuffle=False, seed=seed))


def test_an_unreadable_file_at_the_end_of_any_epoch_is_the_one_that_is_skipped(third_broken):
    source = image_folder(third_broken, on_error="skip")
    dataset = pipeline(source, 1, [CenterCrop(32)], num_parallel_calls=1, prefetch=0)
    for epoch in range(8):
        dataset.epoch.assign(epoch)
        reading = iter(dataset)
        next(reading)
        # The pass goes on in the order of the epoch in which it began.
        dataset.epoch.assign(epoch + 1)
        assert len(list(reading)) == 1
    assert [os.path.basename(path) for path in source.skipped] == ["2.jpg"]


def test_skipped_files_between_starts_and_remainders(tmp_path):
    """Gaps are found batch by batch, and good files are never reported."""
    content = tf.io.encode_jpeg(smooth(40, 40).astype("uint8")).numpy()
    (tmp_path / "a").mkdir()
    bad = (0, 3, 4, 9, 10)
    for index in range(11):
        (tmp_path / "a" / f"{index:02d}.jpg").write_bytes(b"" if index in bad else content)
    operations = [CenterCrop(16)]

    def read(batch_size, **arguments):
        source = image_folder(tmp_path, on_error="skip")
        dataset = pipeline(source, batch_size, operations, shuffle=False, with_keys=True, **arguments)
        numbers = {int(key): index for index, key in enumerate(make_keys(0, 0, np.arange(11)).numpy())}
        found = [[numbers[int(key)] for key in keys] for _, keys in dataset]
        assert {int(os.path.basename(path)[:2]) for path in source.skipped} == set(bad)
        return found

    assert read(4, drop_remainder=True) == [[1, 2, 5, 6]]
    assert read(2, batch=1) == [[5, 6], [7, 8]]
    # In a pass that starts later, all before that are passed over and not missing.
    source = image_folder(tmp_path)
    dataset = pipeline(source, 2, operations, shuffle=False, batch=3)
    with pytest.raises(tf.errors.OpError, match=r"09\.jpg can't be read"):
        for images, _ in dataset:
            assert images.shape == (2, 16, 16, 3)


def test_more_images_than_are_numbered_at_once(tmp_path):
    content = tf.io.encode_jpeg(smooth(24, 24).astype("uint8")).numpy()
    (tmp_path / "a").mkdir()
    for index in range(CHUNK + 5):
        (tmp_path / "a" / f"{index}.jpg").write_bytes(content)

    def keys(**arguments):
        dataset = pipeline(tmp_path, 3, [RandomResizedCrop(4)], with_keys=True, seed=2, **arguments)
        return [[key.numpy().tolist() for _, key in dataset] for _ in range(2)]

    whole = keys()
    assert sorted(key for batch in whole[0] for key in batch) == sorted(make_keys(2, 0, np.arange(CHUNK + 5)).numpy())
    last = CHUNK // 3 + 1
    assert keys(batch=last) == [whole[0][last:], whole[1]]


def test_images_that_are_too_small_are_named(tmp_path):
    (tmp_path / "a").mkdir()
    for index, side in enumerate((40, 40, 20, 40)):
        (tmp_path / "a" / f"{index}.jpg").write_bytes(tf.io.encode_jpeg(smooth(side, 40).astype("uint8")).numpy())
    with pytest.raises(tf.errors.OpError, match=r"a/2\.jpg must be at least 32x32.*Received: an image of 20x40"):
        list(pipeline(tmp_path, 4, [RandomCrop(0, size=32)]))
