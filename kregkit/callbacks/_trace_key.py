"""What a traced function depends on, as a key: two fits with equal keys may share one function."""

import enum
import functools
import hashlib
import inspect
import pathlib
import types
import weakref

import keras
import numpy as np
import tensorflow as tf

_PLAIN = (
    type(None),
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    range,
    enum.Enum,
    pathlib.PurePath,
    tf.DType,
    tf.TensorShape,
)

# Objects whose state lives in variables, or which Keras too reads only once: the object itself is the key.
_BY_IDENTITY = (
    *(keras.Variable, keras.KerasTensor, keras.layers.Layer, keras.optimizers.Optimizer, keras.callbacks.Callback),
    *(keras.metrics.Metric, keras.losses.Loss, tf.Variable, tf.Module, tf.data.Dataset, tf.distribute.Strategy),
    *(type, types.ModuleType, types.BuiltinFunctionType, np.ufunc),
)


class Unrepeatable(Exception):
    """A value holds something that can't be compared, such as a generator: the function must be traced anew."""


class _Symbolic(Exception):
    """A value holds a tensor of a graph: a trace left it there, and the next trace writes it before reading it."""


class Identity:
    """Equal to the `Identity` of the same object, as long as the object lives."""

    def __init__(self, thing):
        self._hash = id(thing)
        try:
            self._reference = weakref.ref(thing)
        except TypeError:
            self._reference = lambda: thing

    def __hash__(self):
        return self._hash

    def __eq__(self, other):
        thing = self._reference()
        return isinstance(other, Identity) and thing is not None and thing is other._reference()

    @property
    def alive(self):
        """Whether the object still exists; no other key equals this one afterwards."""
        return self._reference() is not None


def hook_key(hook):
    """Returns the key of what a hook's traced methods can read on the hook: its attributes, less those it names.

    Attributes named in `untraced_attributes` of the hook's class or a base are left out, as are tensors that an
    earlier trace left on the hook.

    Raises:
        Unrepeatable: The hook's code is not kregkit's: nobody can tell what a user's own method reads.
    """
    kind = type(hook)
    if not _is_known(kind) or {"before_step", "after_step", "after_update"} & vars(hook).keys():
        raise Unrepeatable
    untraced = {name for base in kind.__mro__ for name in vars(base).get("untraced_attributes", ())}
    attributes = {name: value for name, value in vars(hook).items() if name not in untraced}
    return (Identity(kind), *_attributes(attributes, (hook,)))


def _is_known(kind):
    """Returns whether a class's code is kregkit's, Keras's or Python's: it reads nothing that isn't in the key."""
    return kind.__module__.partition(".")[0] in ("kregkit", "keras", "builtins", "collections")


def value_key(value, within=()):
    """Returns a hashable key of a value's structure and contents; variables, layers and classes stand for themselves.

    Raises:
        Unrepeatable: The value holds something whose state can't be seen.
    """
    if isinstance(value, _PLAIN):
        # `repr` tells 0.0 from -0.0 and makes NaN equal to itself.
        return (type(value), repr(value))
    if isinstance(value, _BY_IDENTITY):
        return Identity(value)
    if isinstance(value, tf.Tensor):
        if not hasattr(value, "numpy"):
            raise _Symbolic
        value = value.numpy()
    if isinstance(value, (np.ndarray, np.generic)):
        array = np.asarray(value)
        if array.dtype.hasobject:
            return value_key(array.tolist(), within)
        return ("array", array.shape, str(array.dtype), hashlib.sha256(array.tobytes()).digest())
    if any(value is outer for outer in within):
        return "inside itself"
    within = (*within, value)
    if not isinstance(value, (types.MethodType, types.FunctionType, functools.partial)) and not _is_known(type(value)):
        raise Unrepeatable
    if isinstance(value, types.MethodType):
        return ("method", value_key(value.__func__, within), value_key(value.__self__, within))
    if isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        parts = [cells, value.__defaults__, value.__kwdefaults__]
        return ("function", Identity(value.__code__), value_key(parts, within))
    if isinstance(value, functools.partial):
        return ("partial", value_key([value.func, value.args, value.keywords], within))
    if isinstance(value, (list, tuple)):
        return (Identity(type(value)), tuple(value_key(part, within) for part in value))
    if isinstance(value, dict):
        pairs = tuple((value_key(name, within), value_key(part, within)) for name, part in value.items())
        return (Identity(type(value)), pairs)
    if isinstance(value, (set, frozenset)):
        return (Identity(type(value)), frozenset(value_key(part, within) for part in value))
    if not hasattr(value, "__dict__") or inspect.isgenerator(value) or hasattr(type(value), "__next__"):
        raise Unrepeatable
    return (Identity(type(value)), *_attributes(vars(value), within))


def is_alive(key):
    """Returns whether all objects that a key names still exist."""
    if isinstance(key, Identity):
        return key.alive
    return not isinstance(key, (tuple, frozenset)) or all(is_alive(part) for part in key)


def _attributes(attributes, within):
    keys = []
    for name in sorted(attributes):
        try:
            keys.append((name, value_key(attributes[name], within)))
        except _Symbolic:
            continue
    return keys
