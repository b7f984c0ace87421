"""Real images that need no network: scikit-learn's bundled digits, prepared and read by TFDS."""

import os
import pathlib
import shutil
import tempfile
import time
from typing import Any

from kregkit._core.checks import check_boolean, check_path
from kregkit._core.files import file_digest, read_json, write_json
from kregkit._core.optional import import_optional
from kregkit._core.types import Path
from kregkit.data import _tfds

# A temporary directory older than this was left by a killed preparation, which takes seconds.
_STALE_SECONDS = 3600
# The SHA-256 of each of the set's files.
_CHECKSUMS = "kregkit_checksums.json"


def digits(
    split: Any = "train", data_dir: Path | None = None, *, as_supervised: bool = True, as_arrays: bool = False
) -> Any:
    """Loads 1,797 real images of handwritten digits, 8x8 pixels, without a network.

    The images come with scikit-learn. The first call writes them as an ordinary TFDS data set (about a second, and
    safe when several processes do it at once or one is killed in between); every call reads that back through TFDS,
    so that splits, slices and `tf.data` work as for any other set. `"train"` has 1,437 images and `"test"` has 360,
    always the same ones, each class with the same share in both to within one image. Every image of a split comes
    once, in an order that is fixed and mixed.

    The original pixels count 0 to 16 black dots. They are stored as `round(count * 255 / 16)`, so that `image / 255`
    lies in [0, 1] as for any other image set; `round(image * 16 / 255)` gives the counts back exactly.

    Args:
        split: String, `"train"`, `"test"`, or any TFDS slice: `"train[:80%]"`, `"train[100:200]"`, `"train+test"`.
            A list or tuple of splits gives a list of results.
        data_dir: Path under which the data set is kept. Defaults to TFDS's own: the environment variable
            `TFDS_DATA_DIR`, or `~/tensorflow_datasets`.
        as_supervised: Boolean, whether examples are pairs `(image, label)` rather than dictionaries
            `{"image", "label"}`. Defaults to `True`.
        as_arrays: Boolean, whether to return NumPy arrays of the whole split in place of a `tf.data.Dataset`.

    Returns:
        A `tf.data.Dataset` of images, uint8 `(8, 8, 1)`, and labels, int64 scalars. With `as_arrays=True`, a pair (or
        dictionary) of arrays: images `(num, 8, 8, 1)` and labels `(num,)`.

    Raises:
        ValueError: if the split doesn't exist, or the files are damaged; the message says which folder to delete.
        ImportError: if scikit-learn is missing when the set is first prepared.

    Example:

    >>> from kregkit.data import digits
    >>> images, labels = digits("test", as_arrays=True)
    >>> images.shape, images.dtype, labels.shape
    ((360, 8, 8, 1), dtype('uint8'), (360,))
    >>> train, validation = digits(["train[:80%]", "train[80%:]"])
    >>> len(train), len(validation)
    (1150, 287)

    Reference: [Alpaydin and Kaynak, 1998](https://archive.ics.uci.edu/dataset/80)
    """
    check_boolean("as_supervised", as_supervised)
    check_boolean("as_arrays", as_arrays)
    check_path("data_dir", data_dir, none=True)
    return _tfds.read(prepared_digits(data_dir), split, as_supervised, as_arrays)


def prepared_digits(data_dir: Path | None = None) -> Any:
    """Returns the TFDS builder of the digits, prepared under `data_dir`."""
    tfds = import_optional("tensorflow_datasets", "kregkit.data")
    from kregkit.data._digits_builder import Digits

    try:
        builder = Digits(data_dir=data_dir)
    except Exception as error:
        # TFDS reads what lies there, with as many kinds of errors as there are kinds of damage.
        folder = "TFDS's own directory (TFDS_DATA_DIR)" if data_dir is None else data_dir
        raise ValueError(
            f"The digits can't be read: {error}. Delete digits/1.0.0 in {folder}, and they are written again. "
            f"Received: data_dir={data_dir!r}"
        ) from error
    if not _tfds.is_prepared(builder):
        final = pathlib.Path(builder.data_path)
        root = pathlib.Path(builder.data_dir_root)
        root.mkdir(parents=True, exist_ok=True)
        _remove_stale(root)
        # Whole in a directory of this process's own, then renamed: a set that is half there, or two writers in one
        # directory, can't happen.
        temporary = pathlib.Path(tempfile.mkdtemp(prefix=".digits-", dir=root))
        try:
            config = tfds.download.DownloadConfig(try_download_gcs=False)
            with _tfds.quietly():
                prepared = Digits(data_dir=temporary)
                prepared.download_and_prepare(download_config=config)
            folder = pathlib.Path(prepared.data_path)
            write_json(folder / _CHECKSUMS, {path.name: file_digest(path) for path in sorted(folder.iterdir())})
            final.parent.mkdir(exist_ok=True)
            if final.exists() and not _tfds.is_prepared(Digits(data_dir=data_dir)):
                # What lies there has no dataset_info.json: the remains of someone's interrupted copy.
                os.replace(final, temporary / "remains")
            try:
                os.replace(temporary / final.relative_to(root), final)
            except OSError:
                # Another process was faster. Its data are the same.
                if not _tfds.is_prepared(Digits(data_dir=data_dir)):
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        builder = Digits(data_dir=data_dir)
    _check_files(pathlib.Path(builder.data_path))
    return builder


def _check_files(folder):
    """Raises an error that says what to delete if a file isn't the one that was written."""
    if not (folder / _CHECKSUMS).exists():
        # Written by an older version.
        return
    try:
        written = read_json(folder / _CHECKSUMS)
        damaged = [name for name, digest in written.items() if file_digest(folder / pathlib.Path(name).name) != digest]
    except (OSError, ValueError, AttributeError, TypeError) as error:
        damaged = [str(error)]
    if damaged:
        raise ValueError(
            f"The digits in {folder} are damaged: delete that folder, and they are written again. "
            f"Received: files={damaged}"
        )


def _remove_stale(root):
    for path in root.glob(".digits-*"):
        try:
            if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(path, ignore_errors=True)
        except FileNotFoundError:
            pass
