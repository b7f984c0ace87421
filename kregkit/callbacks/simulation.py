"""The learning rate of every step, without a fit."""

import copy

import keras
import numpy as np

from kregkit._core import rules
from kregkit._core.backends import require_tensorflow
from kregkit._core.checks import check_number
from kregkit.callbacks._tensorflow import compiled_over_steps
from kregkit.callbacks.learning_rate import RateCallback, Rates, refuse_other_rates
from kregkit.callbacks.snapshots import SnapshotEnsemble


@rules.checked(
    callbacks=rules.entries(rules.callback, empty=True),
    epochs=rules.count,
    steps_per_epoch=rules.count,
    logs=rules.mapping(none=True, rule=rules.entries()),
)
def simulate(
    callbacks: list[keras.callbacks.Callback],
    epochs: int,
    steps_per_epoch: int,
    learning_rate: float,
    logs: dict[str, list[float | None]] | None = None,
) -> np.ndarray:
    """Returns the learning rate of every step that a `fit` with these callbacks would take.

    The callbacks' own code runs, without a model of yours and without training; they themselves stay as they are, and
    nothing is written to a snapshot directory. Callbacks that don't take part in the rate are left out.

    Args:
        callbacks: List of callbacks, as `fit` takes it.
        epochs: Integer >= 1.
        steps_per_epoch: Integer >= 1.
        learning_rate: Float > 0, the rate that the model is compiled with.
        logs: Dictionary from the names of monitored quantities, such as `"val_loss"`, to one value per epoch; `None`
            stands for an epoch in which it isn't measured. `PlateauDecay` needs what it monitors.

    Returns:
        Array `(epochs * steps_per_epoch,)` of float32.

    Raises:
        ValueError: An argument is out of range, a curve in `logs` is too short or lacks, or `fit` would refuse the
            callbacks.

    Example:

    >>> from kregkit.callbacks import Cooldown, Warmup
    >>> rates = simulate([Warmup(1), Cooldown(1)], epochs=3, steps_per_epoch=2, learning_rate=0.1)
    >>> [round(float(rate), 3) for rate in rates]
    [0.05, 0.1, 0.1, 0.1, 0.1, 0.05]
    """
    require_tensorflow("simulate")
    check_number("learning_rate", learning_rate, 0, low_open=True)
    refuse_other_rates(callbacks)
    logs = _checked_logs(logs or {}, callbacks, epochs)
    model = _stand_in(learning_rate)
    running = [copy.deepcopy(callback) for callback in callbacks if isinstance(callback, RateCallback)]
    if not running:
        return np.full(epochs * steps_per_epoch, learning_rate, "float32")
    for callback in running:
        callback.set_params({"epochs": epochs, "steps": steps_per_epoch, "verbose": 0})
        callback.set_model(model)
    try:
        for callback in running:
            # What a snapshot ensemble does beyond the rate concerns its directory.
            kind = RateCallback if isinstance(callback, SnapshotEnsemble) else type(callback)
            kind.on_train_begin(callback)
            callback.train_step.callbacks = list(callbacks)
            # An epoch without a value is one without validation, no mistake in a name.
            callback.train_step.validation = {"validation_data": logs}
        train_step = running[0].train_step
        rates = train_step.share(Rates)

        def rate_at(step):
            rates.before_step(step)
            return rates.rates[0]

        rates_from = compiled_over_steps(rate_at, steps_per_epoch)
        whole = []
        plain = [callback for callback in running if not isinstance(callback, SnapshotEnsemble)]
        for epoch in range(epochs):
            train_step.start_epoch(epoch)
            for callback in plain:
                callback.on_epoch_begin(epoch)
            whole.append(rates_from(epoch * steps_per_epoch))
            for callback in plain:
                callback.on_epoch_end(
                    epoch, {name: curve[epoch] for name, curve in logs.items() if curve[epoch] is not None}
                )
    finally:
        for callback in running:
            if callback.train_step is not None:
                callback.train_step.close()
    return np.concatenate(whole)


def _stand_in(learning_rate):
    """Returns a model that holds a rate. It takes no name and no random number from the models that come after it."""
    layer = keras.layers.Dense(1, kernel_initializer="zeros", name="simulated_layer")
    model = keras.Sequential([keras.Input((1,), name="simulated_input"), layer], name="simulated")
    model.compile(keras.optimizers.SGD(learning_rate, name="simulated_optimizer"))
    return model


def _checked_logs(logs, callbacks, epochs):
    for name, curve in logs.items():
        if len(curve) < epochs:
            raise ValueError(
                f"`logs` must hold one value per epoch, of which there are {epochs}. "
                f"Received: logs={{{name!r}: {len(curve)} values}}"
            )
    monitored = {callback.monitor for callback in callbacks if hasattr(callback, "monitor")}
    lacking = sorted(
        callback.monitor
        for callback in callbacks
        if isinstance(callback, RateCallback) and getattr(callback, "monitor", None) not in (None, *logs)
    )
    if lacking:
        raise ValueError(
            f"The rate depends on {lacking[0]!r}: pass its curve, such as `logs={{{lacking[0]!r}: [1.0, 0.9, ...]}}`, "
            f"one value per epoch. Received: logs={sorted(logs)}"
        )
    return {name: curve for name, curve in logs.items() if name in monitored}
