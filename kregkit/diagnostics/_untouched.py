"""Leaves a model, Keras and all generators of random numbers exactly as they were."""

import contextlib
import logging
import random

import numpy as np

from kregkit._core import keras_internals
from kregkit._core.interrupts import uninterrupted
from kregkit._core.weights import assign_values, copy_values


@contextlib.contextmanager
def untouched(model):
    """Lets a block do anything to a model's variables; afterwards their bits, and all seeds, are what they were."""
    with _seeds(), _parts(model), _silence():
        every = [*model.variables, *model.metrics_variables, *(model.optimizer.variables if model.optimizer else ())]
        variables = list({id(variable): variable for variable in every}.values())
        values = copy_values(variables)
        try:
            yield
        finally:
            with uninterrupted():
                assign_values(variables, values)


@contextlib.contextmanager
def _seeds():
    """Keeps the states of Python's, NumPy's and Keras's own generators, and the names that Keras gives next."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    # Keras makes its generator when a random layer without a seed first asks for it, out of Python's.
    memory = keras_internals.global_state()
    before = {key: value.copy() if key == "object_name_uids" else value for key, value in memory.items()}
    generator = before.get("global_seed_generator")
    seeds = [] if generator is None else [generator.state]
    values = copy_values(seeds)
    try:
        yield
    finally:
        memory.clear()
        memory.update(before)
        assign_values(seeds, values)
        random.setstate(python_state)
        np.random.set_state(numpy_state)


@contextlib.contextmanager
def _parts(model):
    """Keeps what isn't a variable: the compiled loss before its first use, the traced functions, the penalties."""
    # The first use of a compiled loss builds it and makes metrics in it, which the user's own first step shall do.
    loss = keras_internals.compiled_loss(model)
    attributes, metrics = ({}, []) if loss is None else (dict(vars(loss)), list(loss.metrics))
    functions = {name: vars(model).get(name) for name in ("train_function", "test_function", "predict_function")}
    try:
        yield
    finally:
        if loss is not None:
            vars(loss).clear()
            vars(loss).update(attributes)
            loss.metrics[:] = metrics
        vars(model).update(functions)
        for layer in keras_internals.flatten_layers(model):
            # Tensors of graphs that were traced in the block.
            keras_internals.clear_losses(layer)


@contextlib.contextmanager
def _silence():
    """Keeps TensorFlow from warning that many small functions are traced once each."""
    logger = logging.getLogger("tensorflow")
    level = logger.level
    try:
        logger.setLevel(logging.ERROR)
        yield
    finally:
        logger.setLevel(level)
