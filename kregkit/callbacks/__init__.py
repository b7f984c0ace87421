"""Callbacks whose work is traced into the train step: learning rates, snapshots, averages."""

from kregkit._core.words import missing_names
from kregkit.callbacks.decays import (
    Cooldown,
    CosineDecay,
    ExponentialDecay,
    InverseTimeDecay,
    LearningRate,
    OneCycle,
    StepDecay,
    Triangular,
    Warmup,
)
from kregkit.callbacks.learning_rate import RateCallback
from kregkit.callbacks.noise_schedule import NoiseSchedule
from kregkit.callbacks.plateau_decay import PlateauDecay
from kregkit.callbacks.polyak_averaging import PolyakAveraging
from kregkit.callbacks.resume import Resume
from kregkit.callbacks.sharpness_aware import SharpnessAware
from kregkit.callbacks.simulation import simulate
from kregkit.callbacks.snapshots import SnapshotEnsemble
from kregkit.callbacks.traced import TracedCallback
from kregkit.callbacks.update_ratio import UpdateRatio

__all__ = [
    "Cooldown",
    "CosineDecay",
    "ExponentialDecay",
    "InverseTimeDecay",
    "LearningRate",
    "NoiseSchedule",
    "OneCycle",
    "PlateauDecay",
    "PolyakAveraging",
    "RateCallback",
    "Resume",
    "SharpnessAware",
    "SnapshotEnsemble",
    "StepDecay",
    "TracedCallback",
    "Triangular",
    "UpdateRatio",
    "Warmup",
    "simulate",
]

__getattr__ = missing_names(__name__)
