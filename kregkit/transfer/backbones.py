"""Where to start from: `keras.applications`, or a small network that is trained here."""

import pathlib
import socket
import threading
import urllib.parse
import urllib.request
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kregkit._core import keras_internals, rules
from kregkit._core.background import answers_in_time
from kregkit._core.checks import check_integer, check_number
from kregkit._core.replacing import replaced
from kregkit._core.seeds import derived_seed
from kregkit._core.types import Path
from kregkit.data import digits

_TIMEOUT = 5.0
# Keras's download function is replaced for the whole process while a backbone is made: by one thread at a time.
_DOWNLOADING = threading.Lock()


@rules.checked(name=rules.word(), weights=rules.optional(rules.path))
def backbone(
    name: str = "digits", weights: Path | None = "imagenet", timeout: float = _TIMEOUT, **arguments: Any
) -> keras.Model:
    """Returns a pretrained model: one of `keras.applications`, or the network that `digits_backbone` trains.

    Weights that are on disk are used; others are fetched. Where there is no network the error comes within `timeout`
    seconds, and names the file, where it comes from and where to put it.

    Keras has no argument for a timeout, so its `get_file` is replaced while the model is made. The replacement holds
    for all threads: another thread that downloads something meanwhile also asks its server first. Two threads that call
    `backbone` wait for each other.

    Args:
        name: `"digits"`, or the name of a class in `keras.applications`, such as `"ResNet50"`.
        weights: `"imagenet"`, a path, or `None` for random ones; for `keras.applications` only.
        timeout: Float > 0, seconds to wait for the server to answer.
        **arguments: For the application, such as `include_top=False` and `input_shape`.

    Returns:
        A Keras model.

    Raises:
        ValueError: There is no model of that name.
        FileNotFoundError: The weights are not on disk, and can't be fetched.

    Example:

    >>> backbone("MobileNetV2", weights=None, include_top=False, input_shape=(32, 32, 3)).output_shape
    (None, 1, 1, 1280)
    """
    check_number("timeout", timeout, 0, 10**8, low_open=True)
    if name == "digits":
        return digits_backbone(**arguments)
    make = getattr(keras.applications, name, None) if isinstance(name, str) else None
    if not callable(make):
        known = sorted(known for known in dir(keras.applications) if known[:1].isupper())
        raise ValueError(f"`name` must be 'digits' or one of {', '.join(known)}. Received: name={name!r}")
    module = keras_internals.download_module()

    def get_file(fname=None, origin=None, cache_subdir="datasets", cache_dir=None, file_hash=None, **rest):
        home = pathlib.Path(cache_dir or module.config.keras_home())
        path = home / cache_subdir / (fname or pathlib.PurePosixPath(urllib.parse.urlparse(origin).path).name)
        # Keras would fetch a damaged file again.
        whole = path.exists() and (file_hash is None or module.validate_file(path, file_hash))
        if not whole and not _answers(origin, timeout):
            server, state = urllib.parse.urlparse(origin).netloc, "damaged" if path.exists() else "not on disk"
            raise FileNotFoundError(
                f"The weights of {name} are {state}, and {server} did not answer within {timeout:g} seconds. Fetch "
                f"{origin} elsewhere and put it at {path}, or pass weights=None. "
                f"Offline, backbone('digits') trains a small one. Received: weights={weights!r}"
            )
        rest |= {"cache_subdir": cache_subdir, "cache_dir": cache_dir, "file_hash": file_hash}
        return original(fname, origin=origin, **rest)

    with _DOWNLOADING:
        original = module.get_file
        with replaced(module, "get_file", get_file):
            return make(weights=weights, **arguments)


def _answers(origin, timeout):
    """Returns whether the server, or the proxy before it, accepts a connection in time.

    Resolving a name may take longer than any timeout, so it is done in a thread.
    """
    parts = urllib.parse.urlparse(origin)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and not urllib.request.proxy_bypass(parts.hostname):
        parts = urllib.parse.urlparse(proxy if "://" in proxy else f"http://{proxy}")

    def connects():
        port = parts.port or (80 if parts.scheme == "http" else 443)
        socket.create_connection((parts.hostname, port), timeout=timeout).close()
        return True

    return answers_in_time(connects, timeout)


@rules.checked(classes=rules.entries(), epochs=rules.count, seed=rules.whole(0))
def digits_backbone(classes: Sequence[int] = (0, 1, 2, 3, 4), epochs: int = 12, seed: int = 0) -> keras.Model:
    """Returns a convolutional network trained on some of the digits, in seconds: what transfer can be tried on.

    Its layers are `conv_1` ... `conv_4` with `norm_1` ... `norm_4` and `relu_1` ... `relu_4`, then `pool` and `head`,
    whose outputs are logits. Inputs are images `(8, 8, 1)` in [0, 1], of `kregkit.data.digits` divided by 255; the
    network centres them itself. The global seed is left as it is.

    Args:
        classes: Digits to train on, renumbered from 0 in this order. Defaults to 0 to 4, so that 5 to 9 are new.
        epochs: Integer >= 1. Defaults to `12`.
        seed: Integer, of the weights and the order.

    Returns:
        A compiled Keras model.

    Raises:
        ValueError: An argument is out of range.
    """
    check_integer("epochs", epochs, 1)
    check_integer("seed", seed, 0)
    x, y = digits("train", as_arrays=True)
    classes = list(classes)
    if len(set(classes)) < max(2, len(classes)) or any(digit not in range(10) for digit in classes):
        raise ValueError(f"`classes` must be two different digits or more. Received: classes={classes}")
    chosen = np.isin(y, classes)
    x, y = x[chosen] / np.float32(255), np.array([classes.index(digit) for digit in y[chosen]])

    def initializer(index):
        return keras.initializers.HeNormal(seed=derived_seed(seed, index))

    inputs = keras.Input((8, 8, 1))
    z = keras.layers.Rescaling(1 / 0.38, offset=-0.3 / 0.38, name="centre")(inputs)
    for index, filters in enumerate((16, 32, 32, 64), start=1):
        convolution = keras.layers.Conv2D(
            filters, 3, padding="same", use_bias=False, kernel_initializer=initializer(index), name=f"conv_{index}"
        )
        z = keras.layers.BatchNormalization(momentum=0.9, name=f"norm_{index}")(convolution(z))
        z = keras.layers.ReLU(name=f"relu_{index}")(z)
        if index in (2, 3):
            z = keras.layers.MaxPooling2D()(z)
    z = keras.layers.GlobalAveragePooling2D(name="pool")(z)
    head = keras.layers.Dense(len(classes), kernel_initializer=initializer(9), name="head")
    model = keras.Model(inputs, head(z), name="digits_backbone")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(2e-3), loss, metrics=["accuracy"])
    # An order of its own for every epoch, whatever the global seed.
    rng = np.random.default_rng(seed)
    order = np.concatenate([rng.permutation(len(x)) for _ in range(epochs)])
    model.fit(x[order], y[order], 32, verbose=0, shuffle=False)
    return model
