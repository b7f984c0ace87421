"""Which arrays a model was trained on, as far as kregkit has seen: what must not be used to judge or calibrate it."""

import weakref
import zlib
from typing import Any

import keras
import numpy as np

# Rows that a fingerprint looks at.
_ROWS = 32
_SEEN: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()


class SeenArray:
    """One array, recognised by its memory while it lives, and by its size and some of its rows afterwards."""

    def __init__(self, array):
        self.fingerprint = _fingerprint(array)
        self._owner = lambda: None
        if isinstance(array, np.ndarray):
            # A slice may be gone when the array whose memory it shares is still in use.
            owner = array.base if isinstance(array.base, np.ndarray) else array
            self._owner = weakref.ref(owner)
            self._offset = array.__array_interface__["data"][0] - owner.__array_interface__["data"][0]
            self._memory_layout = array.shape, array.dtype, array.strides

    def _array(self):
        owner = self._owner()
        if owner is None or not owner.flags.c_contiguous:
            return owner
        shape, dtype, strides = self._memory_layout
        return np.ndarray(shape, dtype, owner, self._offset, strides)

    def is_in(self, array):
        """Returns whether `array` is the same, a copy of it, or shares some of its memory."""
        own = self._array()
        if isinstance(array, np.ndarray) and own is not None:
            try:
                if np.shares_memory(own, array, max_work=10_000):
                    return True
            except np.exceptions.TooHardError:
                pass
        return self.fingerprint == _fingerprint(array)


def seen_arrays(data):
    """Returns a list of `SeenArray`, one per array in `data`; what isn't an array can't be recognised."""
    return [SeenArray(leaf) for leaf in keras.tree.flatten(data) if _is_array(leaf)]


def remember_training_data(model, data):
    """Remembers the arrays in `data` as what `model` was trained on."""
    for array in seen_arrays(data):
        # People fit in loops: the same arrays again take no more memory.
        _SEEN.setdefault(model, {})[array.fingerprint] = array


def training_arrays(model):
    """Returns a list of `SeenArray`: what `model` was trained on, as far as is known."""
    return list(_SEEN.get(model, {}).values())


def shares_arrays(seen, data):
    """Returns whether an array in `data` is one of the list `seen`."""
    arrays = [leaf for leaf in keras.tree.flatten(data) if _is_array(leaf)]
    return any(one.is_in(array) for one in seen for array in arrays)


def _is_array(leaf):
    is_array = isinstance(leaf, np.ndarray) or keras.ops.is_tensor(leaf)
    return is_array and len(leaf.shape) > 0 and bool(leaf.shape[0])


def _fingerprint(array):
    rows = np.linspace(0, len(array) - 1, min(len(array), _ROWS)).astype(int)
    content = b"".join(np.ascontiguousarray(keras.ops.convert_to_numpy(array[row])).tobytes() for row in rows)
    return tuple(array.shape), keras.backend.standardize_dtype(array.dtype), zlib.crc32(content)
