"""What callbacks remember, taken out and put back: by `get_state` and `set_state`, or by Keras's own attributes."""

import copy

import keras

from kregkit._core import keras_internals

_SIMPLE = {type(None), bool, int, float, str}


def remembers(callback):
    """Returns whether a callback has `get_state` and `set_state`."""
    return callable(getattr(callback, "get_state", None)) and callable(getattr(callback, "set_state", None))


def get_state(callback):
    """Returns what a callback remembers; None if it remembers nothing."""
    if remembers(callback):
        return callback.get_state()
    # A copy: lists go on growing while the state is written.
    state = {name: _plain(getattr(callback, name)) for name in keras_internals.callback_attributes(callback)}
    if isinstance(callback, keras.callbacks.CSVLogger):
        state |= _log_state(callback)
    return state or None


def set_state(callback, state):
    """Puts back what `get_state` returned."""
    if state is None:
        return
    if remembers(callback):
        callback.set_state(state)
        return
    for name in keras_internals.callback_attributes(callback):
        setattr(callback, name, copy.deepcopy(state[name]))
    if isinstance(callback, keras.callbacks.CSVLogger):
        _restore_log(callback, state)


def _plain(value):
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        # A history of many epochs is nothing but numbers.
        return list(value) if _SIMPLE.issuperset(map(type, value)) else [_plain(part) for part in value]
    if keras.ops.is_tensor(value):
        return keras.ops.convert_to_numpy(value)
    return copy.copy(value)


def _log_state(logger):
    logger.csv_file.flush()
    with open(logger.filename, "rb") as file:
        content = file.read()
    return {"keys": logger.keys, "header": logger.append_header and logger.writer is None, "content": content}


def _restore_log(logger, state):
    # `on_train_begin` has emptied the file, or rows were added after the state was taken.
    logger.csv_file.flush()
    logger.csv_file.seek(0)
    logger.csv_file.truncate(0)
    logger.csv_file.write(state["content"].decode())
    logger.csv_file.flush()
    logger.keys, logger.append_header = state["keys"], state["header"]
    # The next row makes a writer, with a header only if there was none.
    logger.writer = None
