"""Any TFDS data set by one call that never hangs."""

import difflib
from collections.abc import Sequence
from typing import Any

from kregkit._core.checks import check_boolean, check_choice, check_path
from kregkit._core.optional import import_optional
from kregkit._core.types import Path
from kregkit.data import _tfds
from kregkit.data.bundled_digits import prepared_digits


def load(
    name: str,
    split: Any,
    data_dir: Path | None = None,
    *,
    as_supervised: bool = True,
    shuffle_files: bool = False,
    download: bool | None = None,
) -> Any:
    """Loads any TFDS data set by its name, prepared on this machine or downloaded.

    `tfds.load` without a network retries for minutes; this function raises an error within seconds, which says what is
    missing and where it looked.

    Args:
        name: String, as for `tfds.load`: `"cifar10"`, `"mnist:3.0.1"`, `"glue/sst2"`, or `"digits"` for
            `kregkit.data.digits`. Data sets of your own are found too, once their module is imported or if they lie
            prepared under `data_dir`.
        split: String such as `"train"` or `"train[:80%]"`, or a list of them, which gives a list of datasets.
        data_dir: Path where data sets are kept. Defaults to TFDS's own: the environment variable `TFDS_DATA_DIR`, or
            `~/tensorflow_datasets`.
        as_supervised: Boolean, whether examples are pairs `(input, label)` rather than dictionaries.
        shuffle_files: Boolean, whether files are read in random order. Defaults to `False`: a fixed order.
        download: What to do if the data set isn't prepared. `None` (the default) downloads and prepares it if the
            network answers within three seconds. `True` lets TFDS try and retry in any case, for mirrors and for sets
            made from local files; `False` never downloads.

    Returns:
        A `tf.data.Dataset`, or a list of them.

    Raises:
        ValueError: if TFDS knows no such data set, or the split doesn't exist.
        FileNotFoundError: if the data set is not prepared and may not or can't be downloaded.

    Example:

    >>> from kregkit.data import load
    >>> dataset = load("digits", "train[:10%]")
    >>> len(dataset)
    144
    """
    check_choice("download", download, (None, True, False))
    check_boolean("as_supervised", as_supervised)
    check_boolean("shuffle_files", shuffle_files)
    return _tfds.read(builder(name, data_dir, download), split, as_supervised, shuffle_files=shuffle_files)


class UnknownDataSetError(ValueError):
    """TFDS knows no data set of a name. `close` lists names that are like it."""

    def __init__(self, message: str, close: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.close = close


def builder(
    name: str, data_dir: Path | None = None, download: bool | None = None, file_format: str | None = None
) -> Any:
    """Returns the prepared TFDS builder of a name. Arguments and errors as in `load`."""
    tfds = import_optional("tensorflow_datasets", "kregkit.data")
    if not isinstance(name, str) or not name:
        raise ValueError(f"`name` must be the name of a TFDS data set, such as 'cifar10'. Received: name={name!r}")
    check_path("data_dir", data_dir, none=True)
    if name == "digits":
        return prepared_digits(data_dir)
    try:
        tfds_builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        known = tfds.list_builders(with_community_datasets=False) + ["digits"]
        close = difflib.get_close_matches(name.partition("/")[0].partition(":")[0], known, n=3)
        hint = f" Close names: {', '.join(close)}." if close else ""
        raise UnknownDataSetError(
            "`name` must be a data set that TFDS knows (tfds.list_builders()), or one prepared under "
            f"{_shown(data_dir)}.{hint} Received: name={name!r}",
            close,
        ) from error
    if not _tfds.is_prepared(tfds_builder):
        if download is False:
            reason = "downloading was forbidden (download=False)"
        elif download is None and not _tfds.network_answers():
            reason = "the network doesn't answer, so it can't be downloaded"
        else:
            tfds_builder.download_and_prepare(file_format=file_format)
            return tfds_builder
        raise FileNotFoundError(
            f"The data set {tfds_builder.info.full_name} is not prepared: nothing lies in {tfds_builder.data_path}, "
            f"and {reason}. To prepare it, run `tfds build {name} --data_dir {tfds_builder.data_dir_root}` or "
            f"`kregkit.data.load({name!r}, {str(next(iter(tfds_builder.info.splits), 'train'))!r}, "
            f"data_dir={str(tfds_builder.data_dir_root)!r}, download=True)` where there is a network, then copy "
            f"{tfds_builder.data_path} here, or name the directory that holds it by `data_dir=`. "
            f"Received: name={name!r}, data_dir={data_dir!r}"
        )
    return tfds_builder


def _shown(data_dir):
    tfds = import_optional("tensorflow_datasets", "kregkit.data")
    return data_dir if data_dir is not None else tfds.core.constants.DATA_DIR
