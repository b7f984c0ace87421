"""All use of TFDS: reads splits, silences its progress bars, and doesn't wait for a network that isn't there."""

import contextlib
import io
import pathlib
import urllib.error
import urllib.request

from kregkit._core import keras_internals
from kregkit._core.background import answers_in_time
from kregkit._core.optional import import_optional

_PROBE = "https://storage.googleapis.com/tfds-data"
_PROBE_SECONDS = 3.0


def is_prepared(builder):
    """Whether the builder's data lie on the disk; unlike TFDS's own method, without a warning if they don't."""
    return (pathlib.Path(builder.data_path) / "dataset_info.json").exists()


def read(builder, split, as_supervised=True, as_arrays=False, shuffle_files=False):
    """Reads a split (or a list of splits) of a prepared builder, as datasets or as arrays."""
    tfds = import_optional("tensorflow_datasets", "kregkit.data")
    if isinstance(split, (list, tuple)):
        return [read(builder, one, as_supervised, as_arrays, shuffle_files) for one in split]
    check_split(builder, split)
    if as_supervised and not builder.info.supervised_keys:
        raise ValueError(
            f"The data set {builder.info.full_name} doesn't say what is input and what is label: read it with "
            f"`as_supervised=False`, as dictionaries. Received: as_supervised={as_supervised}"
        )
    if as_arrays:
        return tfds.as_numpy(builder.as_dataset(split=split, as_supervised=as_supervised, batch_size=-1))
    return builder.as_dataset(split=split, as_supervised=as_supervised, shuffle_files=shuffle_files)


def check_split(builder, split):
    available = ", ".join(sorted(builder.info.splits))
    try:
        builder.info.splits[split]
    # TFDS parses a split in many places, each with exceptions of its own.
    except Exception as error:
        raise ValueError(
            f"`split` must be one of {available}, a slice like 'train[:80%]', or a list of these, "
            f"for the data set {builder.info.full_name}. Received: split={split!r}"
        ) from error


@contextlib.contextmanager
def quietly():
    """Silences what TFDS prints while it prepares, which says "Downloading" even where nothing is downloaded."""
    tfds = import_optional("tensorflow_datasets", "kregkit.data")
    bars = tfds.core.utils.tqdm_utils
    before = keras_internals.progress_bars_active(tfds)
    bars.display_progress_bar(False)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        bars.display_progress_bar(before)


def network_answers(url=_PROBE, seconds=_PROBE_SECONDS):
    """Whether a request gets any answer within `seconds`, through the system's proxies.

    A refusal by the server is an answer too.
    """

    def ask():
        with contextlib.suppress(urllib.error.HTTPError), urllib.request.urlopen(request, timeout=seconds):
            pass
        return True

    request = urllib.request.Request(url, method="HEAD")
    return answers_in_time(ask, seconds)
