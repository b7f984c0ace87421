"""One file for a nested state of plain values and arrays, with a checksum; nothing in it is executed.

    b"kregkit state 1\\n"       16 bytes
    length of the header       8 bytes, little-endian
    header                     JSON: {"state": ..., "arrays": [[dtype, shape], ...]}
    arrays                     their bytes, one after another
    SHA-256 of all above       32 bytes

In the header's state an array is `{"$array": index}`. Dictionaries whose keys aren't strings, tuples, NumPy scalars,
bytes, NaN and infinities come back as they were, bit for bit.
"""

import hashlib
import json
import math

import ml_dtypes  # noqa: F401  gives NumPy the names of bfloat16 and the float8 types
import numpy as np

from kregkit._core.files import replacing

_MAGIC = b"kregkit state 1\n"
_DIGEST_SIZE = 32
# Bytes: what is shorter than this is written together with its neighbours.
_SMALL = 2**18
_AS_THEY_ARE = frozenset({type(None), bool, int, str})


def write_state(path, state):
    """Writes `state` to `path`, whole or not at all.

    Args:
        path: String or path.
        state: Nested dictionaries, lists and tuples of None, booleans, numbers, strings, bytes and arrays.

    Raises:
        TypeError: The state holds something else; the message says where.
        OSError: The file can't be written; what was at `path` is still there.
    """
    arrays = []
    encoded = _encode(state, arrays, "state")
    entries = [[array.dtype.name, list(array.shape)] for array in arrays]
    header = json.dumps({"state": encoded, "arrays": entries}).encode()
    digest = hashlib.sha256()
    parts = (_MAGIC, len(header).to_bytes(8, "little"), header, *map(_bytes_of, arrays))
    # Without a buffer: a large array is one call, which lets other threads run; small ones go together, since each
    # call waits for the other threads once more.
    with replacing(path) as temporary, open(temporary, "wb", buffering=0) as file:
        for part in _joined(parts):
            digest.update(part)
            _write_all(file, part)
        _write_all(file, digest.digest())


def read_state(path):
    """Returns the state that `write_state` wrote.

    Raises:
        ValueError: The file is truncated, corrupt or something else; the message says which and names it.
        OSError: The file can't be read.
    """
    with open(path, "rb") as file:
        content = file.read()
    if not content.startswith(_MAGIC):
        raise ValueError(f"{path} is not a state file of kregkit, or one of another version")
    start = len(_MAGIC) + 8
    body, digest = memoryview(content)[:-_DIGEST_SIZE], content[-_DIGEST_SIZE:]
    if len(content) < start + _DIGEST_SIZE or hashlib.sha256(body).digest() != digest:
        raise ValueError(f"{path} is truncated or corrupt: its checksum doesn't fit")
    try:
        length = int.from_bytes(content[len(_MAGIC) : start], "little")
        header = json.loads(bytes(body[start : start + length]))
        arrays, position = [], start + length
        for name, shape in header["arrays"]:
            dtype = np.dtype(name)
            if dtype.hasobject or any(not isinstance(size, int) or size < 0 for size in shape):
                raise ValueError(f"an array of type {name!r} and shape {shape}")
            count = math.prod(shape)
            # The slice is checked before anything of that size is made.
            if count * dtype.itemsize > len(body) - position:
                raise ValueError("an array that is longer than the file")
            array = np.frombuffer(body, dtype, count, position).reshape(shape).copy()
            position += array.nbytes
            arrays.append(array)
        return _decode(header["state"], arrays)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is not a readable state file: {error}") from error


def _joined(parts):
    """Yields the bytes of the parts, those of small ones together."""
    together = bytearray()
    for part in parts:
        if len(part) < _SMALL:
            together += part
        else:
            yield bytes(together)
            together.clear()
            yield part
        if len(together) >= _SMALL:
            yield bytes(together)
            together.clear()
    yield bytes(together)


def _write_all(file, part):
    part = memoryview(part)
    while part:
        part = part[file.write(part) :]


def _bytes_of(array):
    return memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8))


def _encode(value, arrays, place):
    """Returns a value as JSON takes it, and appends its arrays to `arrays`."""
    try:
        return _encoded(value, arrays)
    except _NotStorableError as error:
        raise TypeError(f"{place}{''.join(reversed(error.place))} is {error.what}, which no state can hold") from None


class _NotStorableError(Exception):
    """Where in a state, from the inside out, is something that can't be stored."""

    def __init__(self, what):
        super().__init__(what)
        self.what, self.place = what, []


def _encoded(value, arrays):
    if isinstance(value, np.generic):
        arrays.append(np.asarray(value))
        return {"$scalar": len(arrays) - 1}
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, (int, float)):
        if type(value) not in (int, float):
            raise _NotStorableError(f"of type {type(value).__name__}")
        # `repr` gives a float back bit for bit; of NaNs there are several.
        return {"$float": value.hex()} if isinstance(value, float) and not math.isfinite(value) else value
    if isinstance(value, bytes):
        arrays.append(np.frombuffer(value, np.uint8))
        return {"$bytes": len(arrays) - 1}
    if isinstance(value, np.ndarray):
        if value.dtype.hasobject or value.dtype.fields or value.dtype.kind in "SU":
            raise _NotStorableError(f"an array of type {value.dtype}")
        arrays.append(value)
        return {"$array": len(arrays) - 1}
    if isinstance(value, list):
        return _encoded_list(value, arrays)
    if isinstance(value, tuple):
        return {"$tuple": _encoded_list(value, arrays)}
    if isinstance(value, dict):
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {key: _encoded_part(part, arrays, key) for key, part in value.items()}
        return {
            "$pairs": [
                [_encoded_part(key, arrays, key), _encoded_part(part, arrays, key)] for key, part in value.items()
            ]
        }
    raise _NotStorableError(f"of type {type(value).__name__}")


def _encoded_list(value, arrays):
    # Histories and shapes: many numbers, while the Python code of other threads waits for this one's.
    if all(type(part) in _AS_THEY_ARE or (type(part) is float and math.isfinite(part)) for part in value):
        return list(value)
    return [_encoded_part(part, arrays, index) for index, part in enumerate(value)]


def _encoded_part(part, arrays, key):
    try:
        return _encoded(part, arrays)
    except _NotStorableError as error:
        error.place.append(f"[{key!r}]")
        raise


def _decode(value, arrays):
    if isinstance(value, list):
        return [_decode(part, arrays) for part in value]
    if not isinstance(value, dict):
        return value
    if len(value) != 1 or not next(iter(value)).startswith("$"):
        return {key: _decode(part, arrays) for key, part in value.items()}
    ((kind, content),) = value.items()
    if kind == "$array":
        return arrays[content]
    if kind == "$scalar":
        return arrays[content][()]
    if kind == "$bytes":
        return arrays[content].tobytes()
    if kind == "$float":
        return float.fromhex(content)
    if kind == "$tuple":
        return tuple(_decode(part, arrays) for part in content)
    if kind == "$pairs":
        return {_decode(key, arrays): _decode(part, arrays) for key, part in content}
    raise ValueError(f"an entry of kind {kind!r}")
