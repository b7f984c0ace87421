"""Folders of images: finds the files and the class of each."""

import collections
import contextlib
import csv
import functools
import logging
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from kregkit._core.checks import check_choice, check_path, check_string
from kregkit._core.types import Path, Tensor
from kregkit.data._cache import check_cache
from kregkit.data._image_files import MOST_PIXELS, FileSource

_LOG = logging.getLogger("kregkit.data")
IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png")
_OTHER_IMAGES = {".avif", ".heic", ".jfif", ".jp2", ".jpe", ".tga", ".tif", ".tiff", ".webp"}
_SPLITS = {"train", "training", "test", "testing", "val", "valid", "validation", "dev", "eval"}


def image_folder(
    directory: Path,
    split: Any = None,
    labels: Tensor = None,
    channels: Tensor = 3,
    on_error: str = "raise",
    cache: bool | Path = False,
    *,
    class_names: Sequence[str] | None = None,
    orientation: bool = True,
    max_pixels: int | None = MOST_PIXELS,
    outside: bool = False,
    bits: int = 8,
) -> Any:
    """Opens a folder of images as a source for `pipeline`.

    The layout is that of `tfds.ImageFolder`: `directory/[split/]class/image.jpg`, the classes of all splits numbered in
    the order of their names. Images in subfolders of a class belong to the class. Images beside the class folders, and
    image files of other kinds than .bmp, .gif, .jpeg, .jpg and .png, are left out, which is logged.

    With `labels`, a CSV file of rows `path,class` under an optional header `file,label` names the images instead,
    relative to the directory; classes that are all whole numbers are ordered as numbers. What starts with a dot is
    passed over.

    Args:
        directory: Path.
        split: String, the subdirectory to read, or `None` (the default) if the classes lie in `directory` itself.
        labels: Path of a CSV file, or `None`.
        channels: 3 (the default), 1, 4 (with alpha, 255 where a file has none), or 0 for what each file holds. Palettes
            are looked up.
        on_error: `"raise"` (the default): a file that can't be read ends the iteration with an error that names it.
            `"skip"` leaves it out, logs it, and keeps it in the source's `skipped`.
        cache: `True` keeps the decoded images in memory, a path in a directory, one file each.
        class_names: List of strings in the order of their numbers, or `None` (the default) for those that are found.
            With two label files, one for training and one for testing, it makes sure that both number alike.
        orientation: Boolean, whether to turn photographs as the EXIF orientation in their JPEG or PNG file says.
            Defaults to `True`, as viewers show them; `tfds.ImageFolder` leaves them as they are stored.
        max_pixels: Integer, the most pixels that an image may have, the frames of a GIF together. A larger one is an
            unreadable file, by its header, before it is decoded. Defaults to 178,956,970, where PIL refuses too.
            `None` for no limit.
        outside: Boolean, whether the CSV may name files that don't lie below the directory, by absolute paths, `..` or
            links. Defaults to `False`.
        bits: 8 (the default) gives uint8 images; PNG files of 16 bits lose the lower half, 65535 being 255. 16 gives
            uint16 images, 65535 being white, which `pipeline` brings to its range with all their levels; other files'
            numbers are multiplied by 257.

    Returns:
        A source of `(image, label)`, with random access, and with `class_names`, `paths` and `skipped`. It is a
        sequence: `source[0]` is an example, and `PCAColorNoise().fit(source)` reads them all.

    Raises:
        FileNotFoundError: if the directory, or a file that the CSV names, doesn't exist.
        ValueError: if there are no images, or the CSV is wrong, or names a file outside the directory: the message
            names the file and the line. Or if an image
            is of a class that isn't among `class_names`.

    Example:

    >>> import pathlib, tempfile, numpy as np, tensorflow as tf
    >>> from kregkit.data import image_folder, pipeline
    >>> root = pathlib.Path(tempfile.mkdtemp())
    >>> for name in ("cat", "dog"):
    ...     (root / name).mkdir()
    ...     png = tf.io.encode_png(np.zeros((8, 8, 3), "uint8"))
    ...     _ = (root / name / "1.png").write_bytes(png.numpy())
    >>> source = image_folder(root)
    >>> source.size, source.class_names
    (2, ['cat', 'dog'])
    """
    check_path("directory", directory)
    check_string("split", split, none=True)
    check_path("labels", labels, none=True)
    root = pathlib.Path(directory) if split is None else pathlib.Path(directory) / split
    if not root.is_dir():
        raise FileNotFoundError(f"There is no folder {root}. Received: directory={str(directory)!r}, split={split!r}")
    check_choice("channels", channels, (0, 1, 3, 4))
    check_choice("outside", outside, (True, False))
    check_cache(cache)
    _check_class_names(class_names)
    if labels is not None:
        paths, names = _read_labels(pathlib.Path(labels), root, class_names, outside)
        found = set(names)
        all_classes = sorted(found, key=int if all(name.isdecimal() for name in found) else None)
    else:
        _check_not_splits(root, directory)
        images = _images(root)
        paths = [path for one in images.values() for path in one]
        if not paths:
            beside = any(_suffix(entry.name) in IMAGE_SUFFIXES for entry in _entries(root))
            hint = " Those in the folder itself have no class: move them to one, or give `labels`." if beside else ""
            raise ValueError(
                f"The folder {root} holds no images: they are looked for as {root}/CLASS/.../NAME with the suffixes "
                f"{', '.join(IMAGE_SUFFIXES)}.{hint} Received: directory={str(directory)!r}"
            )
        for name, one in images.items():
            if not one:
                raise ValueError(
                    f"The class folder {root / name} holds no images. Received: directory={str(directory)!r}"
                )
        # A class that one split lacks keeps its number in all.
        splits = [root] if split is None else _folders(root.parent)
        all_classes = sorted({folder.name for one in splits for folder in _folders(one)})
        names = [name for name, one in images.items() for _ in one]
    class_names = all_classes if class_names is None else list(class_names)
    numbers = {name: number for number, name in enumerate(class_names)}
    unknown = set(names) - set(numbers)
    if unknown:
        path = next(path for path, name in zip(paths, names) if name in unknown)
        raise ValueError(f"The class of {path} is not in `class_names`. Received: class_names={class_names}")
    labels = np.array([numbers[name] for name in names], "int64")
    return FileSource(paths, labels, class_names, channels, on_error, cache, orientation, max_pixels, bits)


def _entries(directory):
    """Yields what lies in a directory, without asking the disk about each file, except for what starts with a dot."""
    with os.scandir(directory) as entries:
        yield from (entry for entry in entries if not entry.name.startswith("."))


def _suffix(name):
    return os.path.splitext(name)[1].lower()


def _folders(root):
    return [root / name for name in sorted(entry.name for entry in _entries(root) if entry.is_dir())]


def _images(root):
    """Returns the paths of the images of each class, at any depth below the class, and logs what is left out."""
    left_out = collections.Counter()
    beside = sum(entry.is_file() and _suffix(entry.name) in IMAGE_SUFFIXES for entry in _entries(root))
    left_out["image beside the class folders"] = beside
    images = {folder.name: _images_below(folder, left_out) for folder in _folders(root)}
    for kind, num in left_out.items():
        if num:
            _LOG.warning("Left out of %s: %d %s%s", root, num, kind, "s" if num > 1 and kind.endswith("file") else "")
    return images


def _images_below(folder, left_out):
    images, visited, waiting = [], set(), [str(folder)]
    while waiting:
        directory = waiting.pop()
        real = os.path.realpath(directory)
        # A link to a folder above would lead around for ever.
        if real in visited:
            continue
        visited.add(real)
        for entry in _entries(directory):
            if entry.is_dir():
                waiting.append(entry.path)
                continue
            suffix = _suffix(entry.name)
            if suffix not in IMAGE_SUFFIXES:
                left_out[f"{suffix} file"] += suffix in _OTHER_IMAGES
            elif entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path)):
                images.append(entry.path)
            else:
                # Opening a pipe or a device may wait for ever.
                left_out["pipe, device or socket"] += 1
    # Folder by folder, as paths are compared.
    return sorted(images, key=lambda path: path.replace(os.sep, "\0"))


def _check_not_splits(root, directory):
    """Raises an error if the folders are splits of a data set, or hold some: reading them would mix the splits."""
    folders = _folders(root)
    if not any(_suffix(entry.name) in IMAGE_SUFFIXES for folder in folders for entry in _entries(folder)):
        splits = [folder.name for folder in folders if folder.name.lower() in _SPLITS]
        if splits and len(splits) >= min(2, len(folders)):
            raise ValueError(
                f"The folders of {root} are named as splits: say which one to read, such as split={splits[0]!r}. "
                f"Received: directory={str(directory)!r}"
            )
        inner = [{inside.name.lower() for inside in _folders(folder)} for folder in folders]
        if inner and all(names and names <= _SPLITS for names in inner):
            raise ValueError(
                f"The class folders of {root} hold the splits {sorted(set.union(*inner))}, which would be mixed: lay "
                f"them out as directory/split/class/image, or give `labels`. Received: directory={str(directory)!r}"
            )


def _check_class_names(names):
    strings = isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names)
    if names is not None and not (strings and len(set(names)) == len(names)):
        raise ValueError(f"`class_names` must be a list of different strings. Received: class_names={names!r}")


def _rows(file):
    """Yields the rows of a CSV file with their numbers; what can't be read as one is an error that names the file."""
    number = 0
    try:
        with open(file, newline="", encoding="utf-8-sig") as lines:
            for number, row in enumerate(csv.reader(lines), 1):
                yield number, row
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{file} is no CSV file in UTF-8 after line {number}: {error}") from None


def _read_labels(file, root, class_names, outside):
    if not file.is_file():
        raise FileNotFoundError(f"There is no label file {file}. Received: labels={str(file)!r}")
    paths, names = [], []
    seen = set()
    inside = os.path.join(os.path.realpath(root), "")
    real_folder = functools.lru_cache(1024)(os.path.realpath)
    with contextlib.closing(_rows(file)) as rows:
        for number, row in rows:
            where = f"{file}, line {number}"
            if not row or (number == 1 and [cell.strip().lower() for cell in row] == ["file", "label"]):
                continue
            if len(row) != 2 or not row[0].strip() or not row[1].strip():
                raise ValueError(f"{where}: expected `path,class`. Received: row={row}")
            path = root / row[0].strip()
            if "\0" in row[0]:
                raise ValueError(f"{where}: no path has a NUL. Received: row={row}")
            folder, name = os.path.split(path)
            # Only a link can lead elsewhere from a folder that is known.
            plain = name not in ("", "..") and not path.is_symlink()
            real = os.path.join(real_folder(folder), name) if plain else os.path.realpath(path)
            if not outside and not real.startswith(inside):
                raise ValueError(
                    f"{where}: {path} lies outside the folder {root}; `outside=True` allows it. Received: row={row}"
                )
            if not path.is_file():
                raise FileNotFoundError(f"{where}: there is no file {path}. Received: row={row}")
            if class_names is not None and row[1].strip() not in class_names:
                raise ValueError(f"{where}: the class is not in `class_names`, {class_names}. Received: row={row}")
            if path in seen:
                raise ValueError(f"{where}: {path} was named before. Received: row={row}")
            seen.add(path)
            paths.append(str(path))
            names.append(row[1].strip())
    if not paths:
        raise ValueError(f"The label file {file} names no images. Received: labels={str(file)!r}")
    return paths, names
