"""What kregkit calls the things that other libraries call otherwise: one table of names and one of arguments."""

from collections.abc import Callable
from typing import Any

# Names of classes and functions elsewhere, in small letters without underscores.
NAMES = {
    "ema": "callbacks.PolyakAveraging",
    "modelema": "callbacks.PolyakAveraging",
    "modelemav2": "callbacks.PolyakAveraging",
    "modelemav3": "callbacks.PolyakAveraging",
    "exponentialmovingaverage": "callbacks.PolyakAveraging",
    "movingaverage": "callbacks.PolyakAveraging",
    "averagedmodel": "callbacks.PolyakAveraging",
    "averagemodelcheckpoint": "callbacks.PolyakAveraging",
    "swa": "callbacks.PolyakAveraging",
    "stochasticweightaveraging": "callbacks.PolyakAveraging",
    "swapemaweights": "callbacks.PolyakAveraging",
    "weightaveraging": "callbacks.PolyakAveraging",
    "reducelronplateau": "callbacks.PlateauDecay",
    "cosineannealing": "callbacks.CosineDecay",
    "cosineannealinglr": "callbacks.CosineDecay",
    "cosineannealingwarmrestarts": "schedules.CosineCycles",
    "cosinedecayrestarts": "schedules.CosineCycles",
    "cyclicallearningrate": "callbacks.Triangular",
    "triangularcyclicallearningrate": "callbacks.Triangular",
    "exponentialcyclicallearningrate": "callbacks.Triangular",
    "cycliclr": "callbacks.Triangular",
    "onecyclelr": "callbacks.OneCycle",
    "onecyclescheduler": "callbacks.OneCycle",
    "steplr": "callbacks.StepDecay",
    "multisteplr": "callbacks.StepDecay",
    "exponentiallr": "callbacks.ExponentialDecay",
    "linearwarmup": "callbacks.Warmup",
    "linearlr": "callbacks.Warmup",
    "learningratescheduler": "callbacks.LearningRate",
    "snapshotcallback": "callbacks.SnapshotEnsemble",
    "snapshotcallbackbuilder": "callbacks.SnapshotEnsemble",
    "sam": "callbacks.SharpnessAware",
    "asam": "callbacks.SharpnessAware",
    "backupandrestore": "callbacks.Resume",
    "lrfinder": "diagnostics.learning_rate_range",
    "lrfind": "diagnostics.learning_rate_range",
    "mcdropout": "inference.marginalize",
    "tta": "inference.marginalize",
    "classificationttawrapper": "inference.marginalize",
    "segmentationttawrapper": "inference.marginalize",
    "averaging": "inference.Ensemble",
    "votingclassifier": "inference.Ensemble",
    "updatebn": "inference.recompute_batch_normalization",
    "dropblock": "layers.DropBlock2D",
    "droppath2d": "layers.DropPath",
    "multioptimizer": "optimizers.LayerwiseLearningRate",
    "layerdecay": "optimizers.LayerwiseLearningRate",
    "lbfgs": "optimizers.minimize",
    "shampoo": "optimizers.SOAP",
    "horizontalflip": "data.RandomFlip",
    "verticalflip": "data.RandomFlip",
    "randomhorizontalflip": "data.RandomFlip",
    "rotate": "data.RandomRotation",
    "normalize": "data.Standardize",
    "compose": "data.Augment",
    "coarsedropout": "data.Cutout",
    "erasing": "data.RandomErasing",
    "autoaugment": "data.TrivialAugment",
    "trivialaugmentwide": "data.TrivialAugment",
    "randomposterize": "data.Posterize",
    "randomposterization": "data.Posterize",
    "randomsolarize": "data.Solarize",
    "solarization": "data.Solarize",
    "randomequalize": "data.Equalize",
    "equalization": "data.Equalize",
    "randomautocontrast": "data.AutoContrast",
    "randomsharpness": "data.Sharpness",
    "randomadjustsharpness": "data.Sharpness",
    "sharpen": "data.Sharpness",
    "bboxparams": "data.Boxes",
    "keypointparams": "data.Points",
    "fancypca": "data.PCAColorNoise",
    "opticaldistortion": "data.LensDistortion",
    "gridsearch": "search.grid",
    "randomsearch": "search.search",
    "kfold": "search.cross_validate",
    "resetclassifier": "transfer.replace_head",
    "gradualunfreezing": "transfer.GradualUnfreeze",
}

_LENGTH = {
    **dict.fromkeys(("epochs", "warmup_epochs", "num_epochs", "t_max", "decay_epochs"), "`length`, in epochs"),
    **dict.fromkeys(("steps", "warmup_steps", "decay_steps", "total_steps"), '`length`, with `unit="step"`'),
}
_RATE_OF_FIT = "the highest rate is the compiled one: say it in `compile`"
_FLOOR = "`floor`, a fraction of the compiled rate"
_DROPPED = dict.fromkeys(
    ("p", "prob", "drop_prob", "drop_rate", "dropout", "probability"), "`rate`, the fraction dropped"
)
_KEPT = "`survival_probability`, the fraction kept: 1 minus a rate"
_CHANCE = dict.fromkeys(("p", "prob", "always_apply"), "`probability`")
_DEGREES = dict.fromkeys(("degrees", "limit", "factor", "max_angle"), "`angle`, in degrees")

# By room and class: what an argument is called elsewhere, and what to type here. Subclasses inherit their bases' words.
ARGUMENTS: dict[str, dict[str, str]] = {
    "callbacks.RateCallback": {
        **dict.fromkeys(("lr", "learning_rate", "max_lr", "base_lr", "initial_learning_rate"), _RATE_OF_FIT),
        **dict.fromkeys(("min_lr", "eta_min", "lr_min", "min_learning_rate", "end_learning_rate"), _FLOOR),
    },
    "callbacks.Warmup": {
        **_LENGTH,
        "start_lr": "`start_factor`",
        "warmup_lr": "`start_factor`",
        "start": "`start_factor`",
    },
    "callbacks.Cooldown": {**_LENGTH, "alpha": "`to`, the last factor", "kind": "`shape`"},
    "callbacks.CosineDecay": {
        **_LENGTH,
        "alpha": "`final_factor`",
        "min_lr": "`final_factor` or `floor`, fractions of the rate",
    },
    "callbacks.OneCycle": {
        **_LENGTH,
        "pct_start": "`warmup_fraction`",
        "div_factor": "`initial_divisor`",
        "div": "`initial_divisor`",
        "final_div_factor": "`final_divisor`",
        "div_final": "`final_divisor`",
        "anneal_strategy": "`shape`",
    },
    "callbacks.StepDecay": {
        **dict.fromkeys(("gamma", "decay_rate", "drop", "alpha", "rate"), "`factor`"),
        **dict.fromkeys(("milestones", "boundaries", "epochs"), "`at`, the times of the steps"),
        **dict.fromkeys(("step_size", "epochs_drop", "decay_steps"), "`every`, the time between steps"),
    },
    "callbacks.ExponentialDecay": dict.fromkeys(
        ("gamma", "decay_rate", "k", "alpha"), "`rate`: the factor is `exp(-rate t)`"
    ),
    "callbacks.InverseTimeDecay": dict.fromkeys(("gamma", "decay_rate", "k", "alpha", "decay"), "`rate`"),
    "callbacks.Triangular": {
        "step_size": "`period`, twice the step size",
        "step_size_up": "`period`, twice the step size",
        "cycle_length": "`period`",
        "gamma": "`amplitude_decay`",
        "scale_fn": "`scale` and `amplitude_decay`",
        "scale_mode": "`scale`",
        "min_lr": "`minimum_factor`, a fraction of the compiled rate",
        "base_lr": "`minimum_factor`, a fraction of the compiled rate",
        "initial_learning_rate": "`minimum_factor`, a fraction of the compiled rate",
    },
    "callbacks.PlateauDecay": {
        "min_lr": "`minimum_factor`, a fraction of the compiled rate",
        "epsilon": "`min_delta`",
        "threshold": "`min_delta`",
        "gamma": "`factor`",
    },
    "callbacks.PolyakAveraging": {
        **dict.fromkeys(("momentum", "ema_momentum", "alpha", "beta", "average_decay", "ema_decay"), "`decay`"),
        **dict.fromkeys(("start_averaging", "swa_start", "update_after_step", "delay"), "`start_step`, in batches"),
        **dict.fromkeys(("use_warmup", "dynamic_decay", "use_ema_warmup"), "`warmup`"),
        **dict.fromkeys(("overwrite_frequency", "average_period", "update_every"), "it moves once per update"),
    },
    "callbacks.SnapshotEnsemble": {
        **dict.fromkeys(("nb_snapshots", "num_cycles", "n_cycles", "num_snapshots", "m"), "`cycles`"),
        **dict.fromkeys(("init_lr", "max_lr", "lr", "learning_rate", "initial_learning_rate"), "`max_learning_rate`"),
        **dict.fromkeys(("min_lr", "eta_min"), "`min_learning_rate`"),
        **dict.fromkeys(("path", "filepath", "save_dir", "model_prefix"), "`directory`"),
        **dict.fromkeys(("epochs", "nb_epochs"), "`fit`'s own `epochs`, which the cycles share"),
        "t_mult": "`restart_multiplier`",
    },
    "callbacks.Resume": {
        **dict.fromkeys(("backup_dir", "path", "filepath", "checkpoint_dir"), "`directory`"),
        **dict.fromkeys(("max_to_keep", "save_total_limit"), "`keep`"),
        **dict.fromkeys(("every", "every_n_steps"), "`save_freq`, in batches"),
    },
    "callbacks.SharpnessAware": {"radius": "`rho`", "epsilon": "`rho`", "period": "`every`"},
    "callbacks.NoiseSchedule": {"layer": "`layers`", "rate": "`schedule`"},
    "callbacks.UpdateRatio": {"frequency": "`every`, in batches", "freq": "`every`, in batches"},
    "transfer.GradualUnfreeze": {"epochs": "`stages`, pairs of an epoch and its layers", "layers": "`stages`"},
    "layers.StochasticDepth": {
        **dict.fromkeys(("rate", "drop_prob", "drop_path", "drop_rate", "p", "survival_prob", "survival"), _KEPT),
        "layer_scale_init": "`layer_scale`",
    },
    "layers.DropPath": {**_DROPPED, "drop_path": "`rate`", "survival_probability": "`rate`, 1 minus it"},
    "layers.DropConnect": _DROPPED,
    "layers.DropBlock2D": {**_DROPPED, "keep_prob": "`rate`, 1 minus it", "size": "`block_size`"},
    "layers.Maxout": {"num_units": "`units`", "num_pieces": "`pieces`", "k": "`pieces`"},
    "layers.MaxoutConv2D": {"num_pieces": "`pieces`", "k": "`pieces`"},
    "layers._FractionalMaxPooling": {
        **dict.fromkeys(
            ("ratio", "pooling_ratio", "output_ratio"), "`pool_ratio`, the input's length over the output's"
        ),
        "pseudo_random": '`regions="pseudorandom"`',
    },
    "optimizers.Momentum": {"beta": "`momentum`", "lr": "`learning_rate`"},
    "optimizers.Adam": {"lr": "`learning_rate`", "betas": "`beta_1` and `beta_2`", "eps": "`epsilon`"},
    "optimizers.SOAP": {"lr": "`learning_rate`", "betas": "`beta_1` and `beta_2`", "eps": "`epsilon`"},
    "optimizers.LayerwiseLearningRate": {
        **dict.fromkeys(("optimizers_and_layers", "factors", "lr_mult", "multiplier"), "`multipliers`, by pattern"),
        "layer_decay": "`LayerwiseLearningRate.by_depth(optimizer, model, decay)`",
    },
    "data.RandomFlip": {**_CHANCE, "direction": "`mode`"},
    "data.RandomRotation": _DEGREES,
    "data.RandomShear": _DEGREES,
    "data.RandomCrop": {"pad": "`padding`", "height": "`size`", "width": "`size`"},
    "data.MixUp": {**_CHANCE, "mixup_alpha": "`alpha`", "classes": "`num_classes`"},
    "data.CutMix": {**_CHANCE, "cutmix_alpha": "`alpha`", "classes": "`num_classes`"},
    "data.Cutout": {"length": "`size`", "mask_size": "`size`"},
}


def foreign_argument(kind: type, name: str) -> str | None:
    """Returns what to type in place of an argument of another library, or `None` if the word isn't known."""
    for base in kind.__mro__:
        # Callbacks and schedules share names, not arguments.
        room = ".".join(base.__module__.split(".")[1:2])
        word = ARGUMENTS.get(f"{room}.{base.__name__}", {}).get(name.lower())
        if word is not None:
            return f"here it is {word}" if word.startswith("`") else word
    return None


def missing_names(room: str) -> Callable[[str], Any]:
    """Returns a room's module-level `__getattr__`, which answers a name of another library by ours.

    `from kregkit.callbacks import EMA` is then an ImportError that names `PolyakAveraging`. Python would replace the
    text of an AttributeError by its own, so names in the table raise an ImportError.
    """

    def __getattr__(name: str) -> Any:
        ours = NAMES.get(name.replace("_", "").lower())
        if ours is not None and ours != f"{room.rpartition('.')[2]}.{name}":
            raise ImportError(f"{room} has no `{name}`: here it is `kregkit.{ours}`.", name=room)
        raise AttributeError(f"module {room!r} has no attribute {name!r}")

    return __getattr__
