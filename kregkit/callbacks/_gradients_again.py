"""The gradients of a train step at other weights, by running the model's own step a second time."""

import contextlib
import threading

import keras
import tensorflow as tf

from kregkit._core import keras_internals

# What acts in place of an optimizer's `apply`, as pairs of both; each replica's step runs in a thread of its own.
_acting = threading.local()


class _AtOptimizer(Exception):
    """Ends the second run of a step where it calls the optimizer."""


def acting_for(optimizer):
    """Returns what acts in place of the optimizer's `apply` at the moment, or None.

    It is called with the optimizer's own `apply` and the arguments.
    """
    other, function = getattr(_acting, "pair", (None, None))
    return function if other is optimizer else None


@contextlib.contextmanager
def _act_for(optimizer, function):
    before, _acting.pair = getattr(_acting, "pair", (None, None)), (optimizer, function)
    try:
        yield
    finally:
        _acting.pair = before


@contextlib.contextmanager
def rerouted(model, run_step, apply_gradients):
    """Lets `apply_gradients` act in place of the compiled optimizer's `apply`, for the block in which a step runs.

    Args:
        model: The model.
        run_step: Function without arguments that runs the model's own step.
        apply_gradients: Function of `gradients`, `variables`, `apply` and `gradients_again`, as `Hook.apply_gradients`
            without the step.
    """
    states = _random_states(model)
    before = [tf.identity(state.value) for state in states]
    calls = []

    def act(apply, gradients, trainable_variables=None):
        variables = list(model.trainable_variables if trainable_variables is None else trainable_variables)
        calls.append(variables)
        if len(calls) > 1:
            raise ValueError(
                "The model's own `train_step` calls the compiled optimizer more than once, so it isn't known which "
                f"gradients to take again. Received: model={model.name!r}"
            )
        with _act_for(None, None):
            return apply_gradients(_dense(gradients), variables, apply, gradients_again)

    def gradients_again():
        found = []

        def stop(apply, gradients, trainable_variables=None):
            found.extend(gradients)
            raise _AtOptimizer

        # Whatever the run assigns stays in the scope: statistics of normalisation, metrics, counts.
        with (
            _same_again(model, states, before),
            _act_for(model.optimizer, stop),
            contextlib.suppress(_AtOptimizer),
        ):
            run_step()
        if len(found) != len(calls[0]):
            raise ValueError(
                "Run a second time on the same batch, the model's own `train_step` didn't come to the optimizer with "
                f"the same variables. Received: model={model.name!r}"
            )
        return _dense(found)

    with _act_for(model.optimizer, act):
        yield


def _dense(gradients):
    return [gradient if gradient is None else tf.convert_to_tensor(gradient) for gradient in gradients]


@contextlib.contextmanager
def _same_again(model, states, values):
    with keras.StatelessScope(zip(states, values), collect_losses=True) as scope:
        # As themselves rather than by value, so that gradients flow to them; regularisers look only here.
        scope.state_mapping.update({id(weight): weight.value for weight in model.trainable_variables})
        yield


def _random_states(model):
    """Returns the variables from which the model's random numbers follow."""
    layers = keras_internals.flatten_layers(model)
    generators = [generator for layer in layers for generator in keras_internals.seed_generators(layer)]
    unseeded = keras_internals.global_state().get("global_seed_generator")
    generators += [] if unseeded is None else [unseeded]
    return list({id(generator.state): generator.state for generator in generators}.values())


def local_component(variable):
    """Returns the `tf.Variable` that this replica reads for a variable; assigning it concerns no other replica."""
    value = variable.value if isinstance(variable, keras.Variable) else variable
    components = tf.distribute.get_strategy().experimental_local_results(value)
    if len(components) == 1:
        return components[0]
    replica = tf.get_static_value(tf.distribute.get_replica_context().replica_id_in_sync_group)
    return components[replica % len(components)]
