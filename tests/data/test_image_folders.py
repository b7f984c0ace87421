import io
import logging
import os

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from kregkit.data import MixUp, RandomCrop, RandomFlip, image_folder, pipeline

RNG = np.random.default_rng(0)


def pixels(height=6, width=9, channels=3, dtype="uint8"):
    return RNG.integers(0, 256, (height, width, channels), dtype=dtype)


def save(path, image, **arguments):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, **arguments)


def test_subfolders_of_a_class_belong_to_it(tmp_path, caplog):
    for name in (
        "cat/1.png",
        "cat/2020/2.png",
        "cat/2020/june/3.png",
        "cat/.thumbs/1.png",
        "dog/2020/1.png",
        "stray.png",
    ):
        save(tmp_path / name, pixels())
    (tmp_path / "dog" / "2.webp").write_bytes(b"")
    (tmp_path / "dog" / "notes.txt").write_text("")
    os.symlink(tmp_path / "cat", tmp_path / "cat" / "2020" / "again")
    with caplog.at_level(logging.WARNING, "kregkit.data"):
        source = image_folder(tmp_path)
    assert source.class_names == ["cat", "dog"]
    np.testing.assert_array_equal(source.labels, [0, 0, 0, 1])
    assert "1 image beside the class folders" in caplog.text and "1 .webp file" in caplog.text
    assert "notes" not in caplog.text and len(caplog.records) == 2


@pytest.mark.parametrize("layout", ["{split}/{name}/1.png", "{name}/{split}/1.png"])
def test_splits_are_not_taken_for_classes(tmp_path, layout):
    for split in ("train", "Test"):
        for name in ("cat", "dog"):
            save(tmp_path / layout.format(split=split, name=name), pixels())
    with pytest.raises(ValueError, match="split.*Received: directory="):
        image_folder(tmp_path)


def test_photographs_stand_upright(tmp_path):
    image = pixels()
    exif = Image.Exif()
    exif[0x0112] = 6
    folder = tmp_path / "images"
    save(folder / "cat" / "1.png", image, exif=exif)
    for cache in (False, tmp_path / "cache", tmp_path / "cache"):
        # A quarter turn clockwise.
        np.testing.assert_array_equal(image_folder(folder, cache=cache)[0][0], np.rot90(image, -1))
        np.testing.assert_array_equal(image_folder(folder, cache=cache, orientation=False)[0][0], image)
    with pytest.raises(ValueError, match="`orientation` must be.*Received: orientation=1"):
        image_folder(folder, orientation=1)


def test_every_kind_of_file_gives_three_channels_of_bytes(tmp_path):
    rgba, gray, deep = pixels(channels=4), pixels(channels=1)[..., 0], RNG.integers(0, 2**16, (6, 9), dtype="uint16")
    palette = Image.fromarray(pixels()).quantize(8)
    expected = {
        "alpha.png": (rgba, rgba[..., :3]),
        "gray.png": (gray, np.repeat(gray[..., None], 3, -1)),
        "deep.png": (deep, np.repeat((deep >> 8).astype("uint8")[..., None], 3, -1)),
        "palette.png": (np.asarray(palette), np.asarray(palette.convert("RGB"))),
    }
    for name, (image, _) in expected.items():
        save(tmp_path / "a" / name, image)
    for kind in ("png", "bmp", "gif"):
        palette.save(tmp_path / "a" / f"palette.{kind}")
        expected[f"palette.{kind}"] = expected["palette.png"]
    source = image_folder(tmp_path)
    for path, (image, _) in zip(source.paths, source, strict=True):
        assert image.dtype == np.uint8
        # 16 bits may be rounded or cut off.
        np.testing.assert_allclose(image, expected[os.path.basename(path)][1], atol="deep" in path)
    for path, (image, _) in zip(source.paths, image_folder(tmp_path, channels=1), strict=True):
        luma = expected[os.path.basename(path)][1] @ np.array([0.299, 0.587, 0.114])
        np.testing.assert_allclose(image[..., 0], luma, atol=1.5, err_msg=path)


@pytest.mark.parametrize("training", [True, False])
def test_a_window_larger_than_an_image_names_the_file(tmp_path, training):
    save(tmp_path / "a" / "large.png", pixels(30, 30))
    save(tmp_path / "a" / "small.png", pixels(10, 40))
    operations = [RandomFlip(), RandomCrop(0, size=24)]
    with pytest.raises(tf.errors.OpError, match=r"small\.png must be at least 24x24 .*Received: an image of 10x40"):
        list(pipeline(tmp_path, 2, operations, training=training))
    # With its padding it is large enough.
    assert next(iter(pipeline(tmp_path, 2, [RandomCrop(7, size=24)], training=training)))[0].shape == (2, 24, 24, 3)


def test_images_of_two_sizes_are_named(tmp_path):
    save(tmp_path / "a" / "1.png", pixels(6, 9))
    save(tmp_path / "a" / "2.png", pixels(7, 9))
    with pytest.raises(tf.errors.OpError, match=r"2\.png: images of a batch must have one size.* 7x9 6x9"):
        list(pipeline(tmp_path, 2, [RandomFlip()], shuffle=False))
    assert [x.shape[1] for x, _ in pipeline(tmp_path, 1, [RandomFlip()], shuffle=False)] == [6, 7]


def test_too_few_classes_are_said_before_a_file_is_read(tmp_path):
    for name in "abc":
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"c/1\.png has a label that `MixUp` cannot mix: it must be 0 to 1"):
        pipeline(tmp_path, 2, [MixUp(num_classes=2)])


def test_damaged_cache_is_not_a_damaged_image(tmp_path):
    save(tmp_path / "images" / "a" / "1.png", pixels())
    folder = tmp_path / "images"
    image_folder(folder, cache=tmp_path / "cache")[0]
    (file,) = (tmp_path / "cache").glob("*.tensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    for on_error in ("raise", "skip"):
        with pytest.raises(tf.errors.OpError, match=r"The cached file .* is damaged.*delete"):
            list(pipeline(image_folder(folder, cache=tmp_path / "cache", on_error=on_error), 1))


def test_broken_bytes_after_the_header(tmp_path):
    file = io.BytesIO()
    Image.fromarray(pixels()).save(file, "JPEG")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.jpg").write_bytes(file.getvalue()[:40])
    with pytest.raises(ValueError, match=r"1\.jpg can't be read"):
        image_folder(tmp_path)[0]
