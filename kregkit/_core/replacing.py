"""Setting attributes for a block, and putting back exactly what was there."""

import contextlib

_ABSENT = object()


@contextlib.contextmanager
def replaced(thing, name, value):
    """Sets an attribute of one object for a block.

    Afterwards the object has its own attribute back, or none where the class's showed through. Keras neither tracks
    the value nor refuses it: a layer's `call` can be replaced so.

    Args:
        thing: Any object with attributes of its own.
        name: String.
        value: What the attribute is within the block.

    >>> class Layer:
    ...     def call(self, x):
    ...         return x
    >>> layer = Layer()
    >>> with replaced(layer, "call", lambda x: -x):
    ...     layer.call(1)
    -1
    >>> layer.call(1), vars(layer)
    (1, {})
    """
    attributes = vars(thing)
    before = attributes.get(name, _ABSENT)
    _put(thing, name, value)
    try:
        yield
    finally:
        if before is _ABSENT:
            attributes.pop(name, None)
        else:
            _put(thing, name, before)


def _put(thing, name, value):
    if isinstance(getattr(type(thing), name, None), property) or isinstance(thing, type):
        raise TypeError(f"{type(thing).__name__}.{name} can't be replaced on one object: it is a property or a class's")
    vars(thing)[name] = value


@contextlib.contextmanager
def replaced_all(changes):
    """Sets several attributes for a block; afterwards puts them back in the reverse order.

    Args:
        changes: Iterable of `(thing, name, value)`.
    """
    with contextlib.ExitStack() as stack:
        for thing, name, value in changes:
            stack.enter_context(replaced(thing, name, value))
        yield
