import io
import logging
import os
import shutil
import socket
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from kregkit.data import CenterCrop, MixUp, RandomCrop, RandomFlip, image_folder, pipeline
from kregkit.data._image_files import MOST_PIXELS, num_pixels

pytestmark = pytest.mark.one_in(2)

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


def test_images_without_classes_are_told_so(tmp_path):
    save(tmp_path / "1.png", pixels())
    with pytest.raises(ValueError, match="Those in the folder itself have no class.*Received: directory="):
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
    for path, (image, _) in zip(source.paths, image_folder(tmp_path, channels=4), strict=True):
        alpha = rgba[..., 3:] if "alpha" in path else 255
        np.testing.assert_array_equal(image[..., 3:], np.broadcast_to(alpha, (6, 9, 1)))
        np.testing.assert_allclose(image[..., :3], expected[os.path.basename(path)][1], atol="deep" in path)
    for path, (image, _) in zip(source.paths, image_folder(tmp_path, channels=1), strict=True):
        luma = expected[os.path.basename(path)][1] @ np.array([0.299, 0.587, 0.114])
        np.testing.assert_allclose(image[..., 0], luma, atol=1.5, err_msg=path)


def bmp(bits, rows, width=3, height=2, colors=(), compression=0, between=b""):
    """Returns a BMP file of given rows, the lowest first."""
    palette = b"".join(bytes((blue, green, red, 0)) for red, green, blue in colors) + between
    sizes = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(rows), 0, 0, len(colors), 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(palette) + len(rows), 0, 0, 54 + len(palette)) + sizes + palette + rows


COLORS = ((200, 30, 40), (10, 190, 60), (20, 70, 180))
BMPS = {
    "1 bit": bmp(1, b"\x40\0\0\0\xa0\0\0\0", colors=COLORS[:2]),
    "1 bit, 11 wide": bmp(1, b"\x5a\x60\0\0", 11, 1, colors=COLORS[:2]),
    "4 bits": bmp(4, b"\x01\x20\0\0\x21\x10\0\0", colors=COLORS),
    "8 bits": bmp(8, b"\0\1\2\0\2\2\0\0", colors=COLORS),
    "a number beyond the palette": bmp(8, b"\0\1\xc8\0\2\3\0\0", colors=COLORS),
    "from the top": bmp(8, b"\0\1\2\0\2\2\0\0", height=-2, colors=COLORS),
    "bytes before the pixels": bmp(8, b"\0\1\2\0\2\2\0\0", colors=COLORS, between=b"\0\0"),
    "24 bits": bmp(24, bytes(range(9)) + bytes(3) + bytes(range(50, 59)) + bytes(3)),
    "masks": bmp(32, bytes(range(24)), compression=3, between=struct.pack("<III", 0xFF0000, 0xFF00, 0xFF)),
    "an unused byte": bmp(32, b"\x0a\x14\x1e\0" * 5 + b"\x1e\x14\x0a\0"),
}


@pytest.mark.parametrize("kind", BMPS)
def test_bmp_files_as_pillow_reads_them(kind, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.bmp").write_bytes(BMPS[kind])
    expected = np.asarray(Image.open(tmp_path / "a" / "1.bmp").convert("RGB"))
    assert expected.any()
    np.testing.assert_array_equal(image_folder(tmp_path)[0][0], expected)
    image = image_folder(tmp_path, channels=4)[0][0]
    np.testing.assert_array_equal(image[..., :3], expected)
    assert (image[..., 3] == (np.arange(3, 24, 4).reshape(2, 3)[::-1] if kind == "masks" else 255)).all()


ODD_BMPS = {
    "16 bits": (bmp(16, bytes(16)), "16 bits per pixel"),
    "compressed": (bmp(8, b"\3\0\0\0\3\1\0\1", colors=COLORS, compression=1), "compression 1"),
    "other masks": (
        bmp(32, b"\1\2\3\4" * 6, compression=3, between=struct.pack("<III", 0xFF, 0xFF00, 0xFF0000)),
        "compression 3",
    ),
    "OS/2": (
        b"BM" + struct.pack("<IHHIIHHHH", 82, 0, 0, 74, 12, 4, 2, 1, 8) + bytes(48) + b"\0\1\2\0\2\2\0\0",
        "a header of 12 bytes",
    ),
    "cut off": (bmp(8, b"\0\1\2\0\2\2", colors=COLORS), "cut off"),
    "cut off in the header": (BMPS["8 bits"][:40], "cut off"),
    "no pixels": (bmp(8, b"", 0, 2, colors=COLORS), "no pixels"),
}


@pytest.mark.parametrize("kind", ODD_BMPS)
def test_bmp_files_that_are_not_read(kind, tmp_path):
    content, reason = ODD_BMPS[kind]
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.bmp").write_bytes(content)
    (tmp_path / "a" / "2.bmp").write_bytes(BMPS["8 bits"])
    source = image_folder(tmp_path, on_error="skip")
    with pytest.raises(ValueError, match=rf"1\.bmp can't be read: .*{reason}"):
        source[0]
    assert len(list(pipeline(source, 1))) == 1


def webp():
    # An animation: TensorFlow would end the process.
    file = io.BytesIO()
    Image.fromarray(pixels()).save(file, "WEBP", save_all=True, append_images=[Image.fromarray(pixels())])
    return file.getvalue()


OTHER_CONTENTS = {
    "webp": (webp, "a WebP file"),
    "text": (lambda: b"<html>not found</html>", "no image file"),
    "JPEG XL": (lambda: b"\xff\x0a" + bytes(100), "no image file"),
    "nothing": (lambda: b"", "it is empty"),
}


@pytest.mark.parametrize("kind", OTHER_CONTENTS)
def test_other_contents_than_the_name_says(kind, tmp_path, monkeypatch):
    make, reason = OTHER_CONTENTS[kind]
    save(tmp_path / "a" / "1.png", pixels())
    (tmp_path / "a" / "2.jpg").write_bytes(make())
    for operations in ([], [CenterCrop(4)]):
        source = image_folder(tmp_path, on_error="skip")
        assert len(list(pipeline(source, 1, operations))) == 1
        assert reason in source.skipped[source.paths[1]]
    monkeypatch.setattr(tf.io, "decode_image", lambda *_, **__: pytest.fail("decoded"))
    stream = tf.data.Dataset.from_tensors({"image": make()})
    with pytest.raises(tf.errors.OpError, match=rf"An image of the source can't be decoded: .*{reason}"):
        next(iter(pipeline(stream, 1, [CenterCrop(4)])))


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


def png(width, height):
    """Returns a PNG file that says it is so large, and holds hardly anything."""
    header = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\0\0\0"
    return b"\x89PNG\r\n\x1a\n" + (13).to_bytes(4, "big") + header + zlib.crc32(header).to_bytes(4, "big")


def gif(width, height, frames=1):
    """Returns a GIF file of a screen of one pixel, and frames that say they are so large."""
    screen = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes(6)
    comment = b"!\xfe\x05hello\0"
    frame = b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x44\x01\0"
    return screen + comment + frame * frames + b";"


BOMBS = {
    "1.png": png(100_000, 100_000),
    "2.jpg": b"\xff\xd8\xff\xe0\0\x04ab\xff\xff\xc2\0\x11\x08" + struct.pack(">HH", 65535, 65535) + bytes(20),
    "3.gif": gif(65535, 65535),
    "4.gif": gif(10_000, 10_000, frames=2),
    "5.bmp": b"BM" + bytes(16) + struct.pack("<ii", 100_000, -100_000) + bytes(40),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_before_it_is_decoded(name, tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / name).write_bytes(BOMBS[name])
    monkeypatch.setattr(tf.io, "decode_image", lambda *_, **__: pytest.fail("decoded"))
    with pytest.raises(
        ValueError, match=rf"{name} can't be read: it would have \d+ pixels, more than `max_pixels=1789"
    ):
        image_folder(tmp_path)[0]


def test_the_limit_of_pixels_is_that_of_pil(tmp_path):
    assert num_pixels(BOMBS["1.png"]) == 100_000**2 and MOST_PIXELS == 2 * Image.MAX_IMAGE_PIXELS
    for name, mode in (("1.png", "RGB"), ("2.jpg", "L"), ("3.gif", "P"), ("4.bmp", "RGB"), ("5.jpg", "RGB")):
        (tmp_path / "a").mkdir(exist_ok=True)
        Image.new(mode, (9, 6)).save(tmp_path / "a" / name, **({"progressive": True} if name == "5.jpg" else {}))
        assert num_pixels((tmp_path / "a" / name).read_bytes()) == 54
    frames = [Image.fromarray(pixels()) for _ in range(3)]
    frames[0].save(tmp_path / "a" / "6.gif", save_all=True, append_images=frames[1:])
    assert num_pixels((tmp_path / "a" / "6.gif").read_bytes()) == 3 * 54
    assert len(list(image_folder(tmp_path, max_pixels=3 * 54))) == 6
    source = image_folder(tmp_path, max_pixels=53, on_error="skip")
    with pytest.raises(tf.errors.InvalidArgumentError, match="This pass had no"):
        list(pipeline(source, 2, training=False))
    assert len(source.skipped) == 6
    assert image_folder(tmp_path, max_pixels=None)[0][0].shape == (6, 9, 3)
    for wrong in (0, -1, 1.5, True, "1"):
        with pytest.raises(ValueError, match="`max_pixels` must be an integer"):
            image_folder(tmp_path, max_pixels=wrong)


def test_pipes_and_devices_are_not_opened(tmp_path, caplog):
    save(tmp_path / "a" / "1.png", pixels())
    os.mkfifo(tmp_path / "a" / "2.png")
    os.symlink("/dev/zero", tmp_path / "a" / "3.png")
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "a" / "4.png"))
    server.close()
    os.symlink(tmp_path / "nowhere", tmp_path / "a" / "5.png")
    with caplog.at_level(logging.WARNING, "kregkit.data"):
        source = image_folder(tmp_path, on_error="skip")
    assert "3 pipe, device or socket" in caplog.text
    assert len(list(pipeline(source, 1, training=False))) == 1
    # One that takes the place of an image later, and one that a CSV file names.
    (tmp_path / "a" / "1.png").unlink()
    os.mkfifo(tmp_path / "a" / "1.png")
    with pytest.raises(ValueError, match=r"1\.png can't be read: it is no ordinary file"):
        source[0]
    (tmp_path / "labels.csv").write_text("a/1.png,x\n")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        image_folder(tmp_path, labels=tmp_path / "labels.csv")


@pytest.mark.parametrize("kind", ["absolute", "parent", "link", "folder link", "nul"])
def test_a_csv_names_files_below_the_folder(kind, tmp_path):
    root = tmp_path / "root"
    save(root / "1.png", pixels())
    save(tmp_path / "root-of-another" / "2.png", pixels())
    os.symlink(tmp_path / "root-of-another" / "2.png", root / "link.png")
    os.symlink(tmp_path / "root-of-another", root / "folder")
    named = {
        "absolute": tmp_path / "root-of-another" / "2.png",
        "parent": "../root-of-another/2.png",
        "link": "link.png",
        "folder link": "folder/2.png",
        "nul": "1.png\0",
    }
    (root / "labels.csv").write_text(f"1.png,x\n{named[kind]},y\n")
    with pytest.raises(ValueError, match=r"labels\.csv(, line 2: .*Received: row=| is no CSV)"):
        image_folder(root, labels=root / "labels.csv")
    if kind != "nul":
        assert image_folder(root, labels=root / "labels.csv", outside=True).size == 2
    # An absolute name of a file below it is one of its files.
    (root / "labels.csv").write_text(f"{root}/1.png,y\n")
    assert image_folder(root, labels=root / "labels.csv").size == 1


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b'1.png,"' + b"x" * 200_000])
def test_a_csv_that_is_none_is_named(content, tmp_path):
    save(tmp_path / "1.png", pixels())
    (tmp_path / "labels.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"labels\.csv is no CSV file in UTF-8"):
        image_folder(tmp_path, labels=tmp_path / "labels.csv")


def open_many(root, num_classes, per_class):
    """Makes files, one of each class and hard links to it; returns the source and what opening took at most, in bytes.

    TensorFlow's memory isn't counted.
    """
    import tracemalloc

    for number in range(num_classes):
        folder = root / f"n{number:08d}"
        folder.mkdir()
        first = folder / f"n{number:08d}_0.JPEG"
        first.write_bytes(tf.io.encode_jpeg(np.full((8, 8, 3), number % 256, "uint8")).numpy())
        for index in range(1, per_class):
            os.link(first, folder / f"n{number:08d}_{index}.JPEG")
    tracemalloc.start()
    source = image_folder(root)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return source, peak


def check_many(source, peak, num_classes, per_class):
    assert len(source) == num_classes * per_class and len(source.class_names) == num_classes
    assert source.paths == sorted(source.paths)
    np.testing.assert_array_equal(source.labels, np.repeat(np.arange(num_classes), per_class))
    # The names as strings and once more as bytes, which grow in steps, and lists of references to them.
    assert peak < 3 * sum(len(path) + 60 for path in source.paths)
    # Any image of the whole may come first.
    for operations in ([RandomFlip()], [CenterCrop(4)]):
        images, labels = next(iter(pipeline(source, 16, operations, seed=1)))
        assert len(np.unique(labels)) > 8
        np.testing.assert_allclose(images[:, 0, 0, 0] * 255, labels % 256, atol=2)


def test_opening_a_folder_takes_the_memory_of_its_names(tmp_path):
    check_many(*open_many(tmp_path, 30, 40), 30, 40)


@pytest.mark.slow
def test_opening_a_folder_of_many_names(tmp_path):
    check_many(*open_many(tmp_path, 400, 750), 400, 750)
    # pytest keeps the folders of three runs.
    shutil.rmtree(tmp_path)


@pytest.mark.slow
def test_names_that_are_no_utf_8(tmp_path):
    """Linux knows names of any bytes, and Python holds those that are no UTF-8 as surrogates."""
    content = tf.io.encode_jpeg(np.full((8, 9, 3), 100, "uint8")).numpy()
    names = [b"\xff\xfe.jpg", "größe 猫 [1].jpg".encode()]
    folder = tmp_path / "ünï"
    folder.mkdir()
    files = [os.path.join(os.fsencode(folder), name) for name in names]
    try:
        for file in files:
            with open(file, "wb") as opened:
                opened.write(content)
    except OSError:
        pytest.skip("This file system takes UTF-8 alone")
    for arguments in ({}, {"cache": tmp_path.parent / f"{tmp_path.name} cache"}):
        source = image_folder(tmp_path, **arguments)
        assert sorted(map(os.fsencode, source.paths)) == sorted(files)
        for operations in ([RandomFlip()], [CenterCrop(4)]):
            ((images, _),) = pipeline(source, 2, operations)
            np.testing.assert_allclose(images * 255, 100, atol=2)
    for shard in ((0, 2), (1, 2)):
        with pytest.raises(tf.errors.OpError, match=r"\.jpg must be at least 12x12"):
            list(pipeline(tmp_path, 1, [RandomFlip(), RandomCrop(0, size=12)], shard=shard))
    for file in files:
        with open(file, "wb") as opened:
            opened.write(content[:60])
    for operations in ([RandomFlip()], [CenterCrop(4)]):
        with pytest.raises(tf.errors.OpError, match=r"The image file .*\.jpg can't be read"):
            list(pipeline(tmp_path, 2, operations))
        source = image_folder(tmp_path, on_error="skip")
        with pytest.raises(tf.errors.InvalidArgumentError, match="This pass had no"):
            list(pipeline(source, 2, operations))
        assert sorted(map(os.fsencode, source.skipped)) == sorted(files)


def test_opening_a_folder_asks_the_disk_about_no_file(tmp_path, monkeypatch):
    for name in ("a/1.png", "a/b/2.JPG", "c/3.png"):
        save(tmp_path / name, pixels()) if name.endswith("png") else (tmp_path / "a" / "b").mkdir()
    (tmp_path / "a" / "b" / "2.JPG").write_bytes(b"")
    asked = []
    for name in ("stat", "lstat"):
        plain = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda path, *a, plain=plain, **k: (asked.append(str(path)), plain(path, *a, **k))[1]
        )
    source = image_folder(tmp_path)
    assert [os.path.relpath(path, tmp_path) for path in source.paths] == ["a/1.png", "a/b/2.JPG", "c/3.png"]
    assert not any(path.lower().endswith(("png", "jpg")) for path in asked)


def test_order_is_that_of_paths(tmp_path):
    for name in ("a/1-2/1.png", "a/1/1.png", "a/1.png", "a-b/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    source = image_folder(tmp_path)
    assert source.paths == [str(path) for path in sorted(tmp_path.rglob("*.png"))]


def test_pngs_of_16_bits_keep_their_levels(tmp_path):
    levels = np.array([[0, 1, 255], [256, 40_000, 65_535]], "uint16")
    root = tmp_path / "images"
    save(root / "a" / "2.png", np.array([[0, 1, 255], [7, 40, 254]], "uint8"))
    save(root / "a" / "3.bmp", np.array([[0, 1, 255], [7, 40, 254]], "uint8"))
    (root / "a" / "1.png").write_bytes(tf.io.encode_png(levels[..., None]).numpy())
    eight = np.array([[0, 1, 255], [7, 40, 254]])
    source = image_folder(root, channels=1, bits=16)
    assert source[0][0].dtype == np.uint16 and (source[0][0][..., 0] == levels).all()
    ((images, _),) = pipeline(source, 3, training=False, value_range=(-1.0, 1.0))
    expected = np.stack([levels / 65535, eight / 255, eight / 255]) * 2 - 1
    np.testing.assert_allclose(images[..., 0], expected, atol=1e-6)
    # With alpha, from a cache, skipping, and moved; a window isn't decoded alone.
    cached = image_folder(root, channels=4, bits=16, on_error="skip", cache=tmp_path / "cache")
    for _ in range(2):
        ((images, _),) = pipeline(cached, 3, [RandomFlip(probability=1.0), RandomCrop(0, size=(2, 3))], shuffle=False)
        np.testing.assert_allclose(images[..., 1], (expected[:, :, ::-1] + 1) / 2, atol=1e-6)
        assert (images[..., 3] == 1).numpy().all()
    assert np.abs(image_folder(root, channels=1)[0][0][..., 0] - levels / 257).max() < 1
    with pytest.raises(ValueError, match="`bits` must be.*Received: bits=12"):
        image_folder(root, bits=12)


def test_grey_levels_of_cmyk(tmp_path):
    (tmp_path / "a").mkdir()
    color = np.full((8, 8, 3), (200, 90, 30), "uint8")
    Image.fromarray(color).convert("CMYK").save(tmp_path / "a" / "1.jpg", quality=100)
    for operations in ([], [CenterCrop(4)]):
        ((images, _),) = pipeline(tmp_path, 1, operations, channels=1, training=False)
        np.testing.assert_allclose(images * 255, 0.299 * 200 + 0.587 * 90 + 0.114 * 30, atol=4)
