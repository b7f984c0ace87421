"""Learning rates as functions of the step, for `compile`: the curves that Keras lacks.

Keras's own are `keras.optimizers.schedules.ExponentialDecay`, `InverseTimeDecay` and `CosineDecay`. The callbacks of
the same names in `kregkit.callbacks` draw the same curves relative to the compiled rate, and in epochs.
"""

from kregkit._core.words import missing_names
from kregkit.schedules.cooldown import Cooldown
from kregkit.schedules.cosine_cycles import CosineCycles
from kregkit.schedules.one_cycle import OneCycle
from kregkit.schedules.step_decay import StepDecay
from kregkit.schedules.triangular import Triangular
from kregkit.schedules.warmup import Warmup

__all__ = ["Cooldown", "CosineCycles", "OneCycle", "StepDecay", "Triangular", "Warmup"]

__getattr__ = missing_names(__name__)
