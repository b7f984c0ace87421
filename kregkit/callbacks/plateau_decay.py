"""Decay where the loss curve goes flat."""

import warnings
from collections.abc import Callable
from typing import Any, Literal

import keras

from kregkit._core import keras_internals
from kregkit._core.checks import check_choice, check_integer, check_number
from kregkit._core.metrics import direction, is_better, one_value
from kregkit._core.types import Tensor
from kregkit.callbacks.learning_rate import RateCallback


class PlateauDecay(RateCallback):
    """Multiplies the rate by `factor` once `monitor` has not improved for `patience`.

    Keras's `ReduceLROnPlateau` sets the learning rate, so it overrides, or is overridden by, warm-up and decay; this
    one multiplies with them. The quantity is read at each epoch's end, so a patience in steps is rounded up to epochs;
    epochs without validation count in the time that passes. A fit that starts at epoch 0 starts counting anew; one
    with `initial_epoch` goes on. `BackupAndRestore` keeps no callback's counts: a run that it restores is warned.

    Args:
        monitor: String, the quantity in `logs` to watch. Defaults to `"val_loss"`.
        factor: Float in (0, 1). Defaults to `0.1`.
        patience: Float >= 0, the time without improvement after which to decay. Defaults to `10`.
        min_delta: Float >= 0, the smallest change that counts as improvement. Defaults to `1e-4`.
        cooldown: Float >= 0, the time after a decay in which nothing is counted. Defaults to `0`.
        minimum_factor: Float in [0, 1], the smallest product of decays. Defaults to `0.0`.
        mode: `"min"`, `"max"`, or `"auto"`: as the model's metric of that name, or Keras's.
        unit: `"epoch"` or `"step"`, what `patience` and `cooldown` are counted in.
        verbose: Integer, 1 prints a line for each decay. Defaults to `0`.

    Raises:
        ValueError: An argument is out of range; in `fit`, `mode="auto"` can't tell which direction is better, or
            the metric has several values at each epoch.

    Example:

    >>> callback = PlateauDecay("val_accuracy", factor=0.5, patience=5)
    """

    whole_epochs_suffice = True
    untraced_attributes: tuple[str, ...] = (
        *("_product", "_best", "_since", "_unread", "_cooling", "_fresh", "_started", "_warned", "_direction"),
        *(
            "monitor",
            "patience",
            "min_delta",
            "cooldown",
            "minimum_factor",
            "mode",
            "verbose",
            "factor",
        ),
    )
    fit_attributes: tuple[str, ...] = ("_factor",)

    def __init__(
        self,
        monitor: str = "val_loss",
        factor: float = 0.1,
        patience: float = 10,
        min_delta: float = 1e-4,
        cooldown: float = 0,
        minimum_factor: float = 0.0,
        mode: Literal["auto", "min", "max"] = "auto",
        unit: Literal["epoch", "step"] = "epoch",
        verbose: int = 0,
    ) -> None:
        super().__init__(unit)
        self.monitor = monitor
        self.factor = check_number("factor", factor, 0, 1, low_open=True, high_open=True)
        self.patience = check_number("patience", patience, 0)
        self.min_delta = check_number("min_delta", min_delta, 0)
        self.cooldown = check_number("cooldown", cooldown, 0)
        self.minimum_factor = check_number("minimum_factor", minimum_factor, 0, 1)
        self.mode = check_choice("mode", mode, ("auto", "min", "max"))
        direction(monitor, "min")  # the name's own error comes now; "auto" is resolved when there is a model
        self.verbose = check_integer("verbose", verbose, 0)
        self._fresh = True
        self._reset()

    def _reset(self):
        self._product, self._best, self._since, self._unread, self._cooling = 1.0, None, 0.0, 0.0, 0.0

    def get_state(self) -> dict[str, Any]:
        """Returns what has been counted, as a dictionary of JSON values."""
        return {
            "product": self._product,
            "best": self._best,
            "since": self._since,
            "unread": self._unread,
            "cooling": self._cooling,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from `state` in the next fit, whichever epoch that starts at."""
        self._product, self._best = float(state["product"]), state["best"]
        self._since, self._cooling = float(state["since"]), float(state["cooling"])
        self._unread = float(state.get("unread", 0.0))
        self._fresh = False

    def make_schedule(self, unit_steps: int, total_steps: int) -> Callable[[Tensor], Tensor]:
        variable = self._factor = self.train_step.variable(self, "plateau_factor", self._product, "float32")
        return lambda step: variable.value()

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._started = self._warned = False
        self._direction = direction(self.monitor, self.mode, self.model)
        super().on_train_begin(logs)

    def prepare(self) -> None:
        restored = self.train_step.find(keras.callbacks.BackupAndRestore) and keras_internals.initial_epoch(self.model)
        if restored and self._fresh and self._best is None:
            warnings.warn(
                "PlateauDecay starts to count anew, at the compiled learning rate: BackupAndRestore brought back the "
                "model, but keeps no callback's state. Keep `get_state()` yourself, and give it to `set_state` before "
                f"`fit`. Received: initial_epoch={restored}",
                stacklevel=2,
            )

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        super().on_epoch_begin(epoch, logs)
        if not self._started and epoch == 0 and self._fresh:
            self._reset()
        self._started = self._fresh = True
        self._factor.assign(self._product)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        # Epoch by epoch, also between validations: a cooldown may end there.
        passed = 1 if self.unit == "epoch" else self.train_step.steps_done() - self.train_step.epoch_start
        if self._cooling > 0:
            self._cooling -= passed
            self._since = self._unread = 0.0
        if self._cooling <= 0:
            self._unread += passed
        value = (logs or {}).get(self.monitor)
        if value is None:
            self._warn_of_missing(logs or {})
            return
        passed, self._unread = self._unread, 0.0
        value = one_value(self.monitor, value)
        if is_better(value, self._best, self._direction, self.min_delta):
            self._best, self._since = value, 0.0
        elif self._cooling <= 0:
            self._since += passed
            if self._since >= self.patience and self._product > self.minimum_factor:
                self._product = max(self._product * self.factor, self.minimum_factor)
                self._cooling, self._since = self.cooldown, 0.0
                if self.verbose:
                    print(f"\nEpoch {epoch + 1}: {self.monitor} is flat, learning rate times {self._product:g}")

    def _warn_of_missing(self, logs):
        """Warns once per fit, unless the quantity may come with a validation that isn't due at every epoch."""
        validation = self.train_step.validation
        validates = validation.get("validation_data") is not None or validation.get("validation_split")
        due_later = validates and self.monitor.startswith("val_") and not any(name.startswith("val_") for name in logs)
        if not self._warned and not due_later:
            self._warned = True
            warnings.warn(
                f"PlateauDecay watches {self.monitor!r}, which is not in the logs; there are {sorted(logs)}",
                stacklevel=3,
            )
