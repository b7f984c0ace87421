"""What kregkit calls the things that other libraries call otherwise: one table of names and one of arguments."""

import functools
import importlib
import importlib.util
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras

# Names of classes and functions elsewhere, in small letters without underscores.
NAMES = {
    # Averages of weights, and rates.
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
    "emacallback": "callbacks.PolyakAveraging",
    "emaweightaveraging": "callbacks.PolyakAveraging",
    "swag": "callbacks.PolyakAveraging",
    "fitonecycle": "callbacks.OneCycle",
    "onecycleschedule": "schedules.OneCycle",
    "fitflatcos": "callbacks.Cooldown",
    "flatcosanneal": "callbacks.Cooldown",
    "lambdalr": "callbacks.LearningRate",
    "polynomiallr": "callbacks.Cooldown",
    "paramscheduler": "callbacks.LearningRate",
    "sequentiallr": "schedules.Warmup",
    "joinschedules": "schedules.Warmup",
    "warmupcosinedecayschedule": "schedules.Warmup",
    "piecewiseconstantschedule": "schedules.StepDecay",
    "sgdrschedule": "schedules.CosineCycles",
    "learningratefinder": "diagnostics.learning_rate_range",
    "backbonefinetuning": "transfer.GradualUnfreeze",
    "activationstats": "diagnostics.compare_activations",
    "overfitbatches": "diagnostics.overfit_small_batch",
    "fastdevrun": "diagnostics.preflight",
    "sanitycheck": "diagnostics.preflight",
    "weightdrop": "layers.DropConnect",
    "weightdropout": "layers.DropConnect",
    "maxoutdense": "layers.Maxout",
    "fractionalmaxpool2d": "layers.FractionalMaxPooling2D",
    "flip": "data.RandomFlip",
    "resize": "data.ResizeShortSide",
    "smallestmaxsize": "data.ResizeShortSide",
    "randomzoom": "data.RandomStretch",
    "randomscale": "data.RandomStretch",
    "randombrightnesscontrast": "data.ColorJitter",
    "huesaturationvalue": "data.ColorJitter",
    "randombrightness": "data.ColorJitter",
    "randomcontrast": "data.ColorJitter",
    "randaugmentpc": "data.RandAugment",
    "imagefolder": "data.image_folder",
    "imagedatasetfromdirectory": "data.image_folder",
    "imagedataloaders": "data.image_folder",
    "dataloader": "data.pipeline",
    "d4transform": "data.D4",
    "fliptransform": "data.Flips",
    "fivecroptransform": "data.FiveCrop",
    "tencroptransform": "data.TenCrop",
    "multiscale": "data.MultiScale",
    "shiftscalerotate": "data.RandomRotation",
    "affine": "data.RandomRotation",
    "randomaffine": "data.RandomRotation",
    "augtransforms": "data.Augment",
    "temperaturescaling": "inference.calibrate",
    "expectedcalibrationerror": "inference.Report",
    "modelsoup": "inference.soup",
    "greedysoup": "inference.soup",
    "testtimeaugmentation": "inference.marginalize",
    "loguniform": "search.log_uniform",
    "suggestfloat": "search.uniform",
    "suggestint": "search.integer",
    "suggestcategorical": "search.choice",
    "randint": "search.integer",
    "quniform": "search.integer",
    "hyperparameters": "search.Space",
    "gridsearchcv": "search.grid",
    "randomizedsearchcv": "search.search",
    "hyperband": "search.search",
    "bayesianoptimization": "search.search",
    "stratifiedkfold": "search.cross_validate",
    "freezeto": "transfer.freeze",
    "createhead": "transfer.replace_head",
    "cnnlearner": "transfer.backbone",
    "visionlearner": "transfer.backbone",
    "createmodel": "transfer.backbone",
}

_LENGTH = {
    **dict.fromkeys(
        ("epochs", "warmup_epochs", "num_epochs", "t_max", "decay_epochs", "t_initial", "warmup_t"),
        "`length`, in epochs",
    ),
    **dict.fromkeys(
        ("steps", "warmup_steps", "decay_steps", "total_steps", "num_warmup_steps", "total_iters", "transition_steps"),
        '`length`, with `unit="step"`',
    ),
}
_RATE_OF_FIT = "the highest rate is the compiled one: say it in `compile`"
_OPTIMIZER = {
    "lr": "`learning_rate`",
    "wd": "`weight_decay`",
    "decay": "a schedule as `learning_rate`, or a rate callback",
    "params": "Keras tells the optimizer which weights to train",
}
_BETAS = {
    "betas": "`beta_1` and `beta_2`",
    "b1": "`beta_1`",
    "b2": "`beta_2`",
    "eps": "`epsilon`",
}
_HIGH = dict.fromkeys(("lr", "learning_rate", "max_lr", "init_value", "peak_value"), "`maximum_learning_rate`")
_LOW = dict.fromkeys(("min_lr", "eta_min", "end_value", "base_lr"), "`minimum_learning_rate`")
_IN_STEPS = dict.fromkeys(("epochs", "decay_steps", "t_max", "transition_steps", "t_initial"), "`total_steps`")
_FLOOR = "`floor`, a fraction of the compiled rate"
_DROPPED = dict.fromkeys(
    ("p", "prob", "drop_prob", "drop_rate", "dropout", "probability"), "`rate`, the fraction dropped"
)
_KEPT = "`survival_probability`, the fraction kept: 1 minus a rate"
_CHANCE = dict.fromkeys(("p", "prob", "always_apply"), "`probability`")
_FILL = {
    **dict.fromkeys(("fill_mode", "border_mode", "padding_mode", "mode"), "`fill`"),
    **dict.fromkeys(("fill_value", "cval", "fillcolor"), "`fill`, a number"),
}
_DEGREES = {**_FILL, **dict.fromkeys(("degrees", "limit", "factor", "max_angle"), "`angle`, in degrees")}

# Where Keras keeps what a room might be asked for.
_KERAS_ROOMS = {
    "callbacks": ("keras.callbacks",),
    "layers": ("keras.layers",),
    "data": ("keras.layers",),
    "optimizers": ("keras.optimizers",),
    "schedules": ("keras.optimizers.schedules",),
}

# By room and class or function: what an argument is called elsewhere, and what to type here. Subclasses inherit their
# bases' words.
ARGUMENTS: dict[str, dict[str, str]] = {
    "callbacks.RateCallback": {
        **dict.fromkeys(
            (
                *(
                    "lr",
                    "learning_rate",
                    "max_lr",
                    "lr_max",
                    "base_lr",
                    "initial_learning_rate",
                    "init_value",
                    "peak_value",
                ),
                *("warmup_target", "optimizer"),
            ),
            _RATE_OF_FIT,
        ),
        "last_epoch": "`fit`'s own `initial_epoch`, or the callback `Resume`",
        "by_epoch": '`unit="epoch"`',
        **dict.fromkeys(("min_lr", "eta_min", "lr_min", "min_learning_rate", "end_learning_rate"), _FLOOR),
    },
    "callbacks.Warmup": {
        **_LENGTH,
        "start_lr": "`start_factor`",
        "warmup_lr": "`start_factor`",
        "start": "`start_factor`",
        "init_value": "`start_factor`, a fraction of the rate",
        "warmup_lr_init": "`start_factor`, a fraction of the rate",
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
        "cycle_momentum": "the momentum stays as compiled",
        "three_phase": "there are two phases, of which `warmup_fraction` is the first",
    },
    "callbacks.StepDecay": {
        **dict.fromkeys(("gamma", "decay_rate", "drop", "alpha", "rate"), "`factor`"),
        **dict.fromkeys(
            ("milestones", "boundaries", "boundaries_and_scales", "epochs"), "`at`, the times of the steps"
        ),
        **dict.fromkeys(("step_size", "epochs_drop", "decay_steps", "decay_t"), "`every`, the time between steps"),
        "values": "`factor`, by which each step multiplies the rate",
    },
    "callbacks.ExponentialDecay": {
        **dict.fromkeys(("gamma", "decay_rate", "k", "alpha"), "`rate`: the factor is `exp(-rate t)`"),
        **dict.fromkeys(("transition_steps", "decay_steps"), "`rate`, per `unit` of time"),
        "staircase": "it falls at every step; `StepDecay` has stairs",
    },
    "callbacks.InverseTimeDecay": dict.fromkeys(("gamma", "decay_rate", "k", "alpha", "decay"), "`rate`"),
    "callbacks.Triangular": {
        "step_size": "`period`, twice the step size",
        "step_size_up": "`period`, twice the step size",
        "cycle_length": "`period`",
        "gamma": "`amplitude_decay`",
        "scale_fn": "`scale` and `amplitude_decay`",
        "scale_mode": "`scale`",
        "mode": "`scale` and `amplitude_decay`",
        "min_lr": "`minimum_factor`, a fraction of the compiled rate",
        "base_lr": "`minimum_factor`, a fraction of the compiled rate",
        "initial_learning_rate": "`minimum_factor`, a fraction of the compiled rate",
    },
    "callbacks.PlateauDecay": {
        "min_lr": "`minimum_factor`, a fraction of the compiled rate",
        "epsilon": "`min_delta`",
        "threshold": "`min_delta`",
        "gamma": "`factor`",
        "decay_rate": "`factor`",
        "metric": "`monitor`",
        "patience_t": "`patience`",
        "cooldown_t": "`cooldown`",
    },
    "callbacks.PolyakAveraging": {
        **dict.fromkeys(("momentum", "ema_momentum", "alpha", "beta", "average_decay", "ema_decay"), "`decay`"),
        **dict.fromkeys(("start_averaging", "swa_start", "update_after_step", "delay"), "`start_step`, in batches"),
        **dict.fromkeys(("use_warmup", "dynamic_decay", "use_ema_warmup"), "`warmup`"),
        **dict.fromkeys(
            ("overwrite_frequency", "average_period", "update_every", "update_every_n_steps"),
            "it moves once per update",
        ),
        **dict.fromkeys(("swa_epoch_start", "update_starting_at_epoch"), "`start_step`, in batches"),
        **dict.fromkeys(
            ("swa_lrs", "swa_lr", "annealing_epochs"), "the rate is the compiled one's, or a rate callback's"
        ),
        **dict.fromkeys(("min_decay", "inv_gamma", "power"), "`warmup`, by which early averages forget sooner"),
        "device": "the average stands beside its weights, wherever they are",
        "use_buffers": "the statistics of BatchNormalization are averaged as well",
    },
    "callbacks.SnapshotEnsemble": {
        **dict.fromkeys(("nb_snapshots", "num_cycles", "n_cycles", "num_snapshots", "m"), "`cycles`"),
        **dict.fromkeys(
            ("init_lr", "max_lr", "lr", "lr_max", "alpha_zero", "learning_rate", "initial_learning_rate"),
            "`max_learning_rate`",
        ),
        **dict.fromkeys(("min_lr", "eta_min"), "`min_learning_rate`"),
        **dict.fromkeys(("path", "filepath", "save_dir", "model_prefix"), "`directory`"),
        **dict.fromkeys(("epochs", "nb_epochs", "t"), "`fit`'s own `epochs`, which the cycles share"),
        "t_mult": "`restart_multiplier`",
    },
    "callbacks.Resume": {
        **dict.fromkeys(
            ("backup_dir", "path", "filepath", "checkpoint_dir", "ckpt_path", "dirpath", "save_dir"), "`directory`"
        ),
        **dict.fromkeys(("max_to_keep", "save_total_limit"), "`keep`"),
        "save_top_k": "`keep`, how many of the newest stay; none is chosen by its quality",
        **dict.fromkeys(("every", "every_n_steps", "every_n_train_steps", "save_steps"), "`save_freq`, in batches"),
        "save_last": "the newest is always kept",
    },
    "callbacks.SharpnessAware": {
        **dict.fromkeys(("radius", "epsilon", "sam_rho"), "`rho`"),
        **dict.fromkeys(("period", "sync_period"), "`every`"),
        "base_optimizer": "it steps with the compiled optimizer",
        "eta": "the constant that is added to each size is 0.01",
    },
    "callbacks.NoiseSchedule": {"layer": "`layers`", "rate": "`schedule`"},
    "callbacks.UpdateRatio": {"frequency": "`every`, in batches", "freq": "`every`, in batches"},
    "transfer.GradualUnfreeze": {"epochs": "`stages`, pairs of an epoch and its layers", "layers": "`stages`"},
    "layers.StochasticDepth": {
        **dict.fromkeys(("rate", "drop_prob", "drop_path", "drop_rate", "p", "survival_prob", "survival"), _KEPT),
        **dict.fromkeys(("drop_path_rate", "stochastic_depth_prob", "dropout_rate"), _KEPT),
        **dict.fromkeys(("layer_scale_init", "init_values", "layer_scale_init_value"), "`layer_scale`"),
        "scale_by_keep": "`scale`",
    },
    "layers.DropPath": {
        **_DROPPED,
        "drop_path": "`rate`",
        "survival_probability": "`rate`, 1 minus it",
        "scale_by_keep": "what is kept is always scaled in training",
    },
    "layers.DropConnect": _DROPPED,
    "layers.DropBlock2D": {**_DROPPED, "keep_prob": "`rate`, 1 minus it", "size": "`block_size`"},
    "layers.Maxout": {
        **dict.fromkeys(("num_units", "out_features", "output_dim"), "`units`"),
        **dict.fromkeys(("num_pieces", "k", "nb_feature", "pool_size"), "`pieces`"),
    },
    "layers.MaxoutConv2D": {
        **dict.fromkeys(("num_pieces", "k", "pool_size"), "`pieces`"),
        "out_channels": "`filters`",
        "stride": "`strides`",
    },
    "layers._FractionalMaxPooling": {
        **dict.fromkeys(
            ("ratio", "pooling_ratio", "output_ratio"), "`pool_ratio`, the input's length over the output's"
        ),
        "pseudo_random": '`regions="pseudorandom"`',
        **dict.fromkeys(("kernel_size", "pool_size"), "`pool_ratio`, the input's length over the output's"),
    },
    "optimizers.Momentum": {**_OPTIMIZER, "beta": "`momentum`", "rho": "`momentum`"},
    "optimizers.Adam": {**_OPTIMIZER, **_BETAS},
    "optimizers.SOAP": {
        **_OPTIMIZER,
        **_BETAS,
        "shampoo_beta": "`beta_2`",
        "max_precond_dim": "`max_precondition_dim`",
    },
    "optimizers.LayerwiseLearningRate": {
        **dict.fromkeys(
            ("optimizers_and_layers", "factors", "lr_mult", "multiplier", "param_groups"), "`multipliers`, by pattern"
        ),
        "layer_decay": "`LayerwiseLearningRate.by_depth(optimizer, model, decay)`",
    },
    "optimizers.LayerwiseLearningRate.by_depth": dict.fromkeys(("layer_decay", "lr_decay", "factor"), "`decay`"),
    "schedules.Warmup": {
        **dict.fromkeys(("warmup_steps", "num_warmup_steps", "total_iters", "epochs"), "`steps`"),
        **dict.fromkeys(("schedule", "after", "target"), "`learning_rate`, a number or a schedule"),
    },
    "schedules.CosineCycles": {
        **_HIGH,
        **_LOW,
        **_IN_STEPS,
        **dict.fromkeys(("t_0", "t_initial", "first_decay_steps"), "`total_steps` and `cycles`"),
        **dict.fromkeys(("num_cycles", "n_cycles"), "`cycles`"),
        **dict.fromkeys(("t_mult", "t_mul", "cycle_mul"), "`restart_multiplier`"),
        "initial_learning_rate": "`maximum_learning_rate`",
    },
    "schedules.OneCycle": {
        **_HIGH,
        **_IN_STEPS,
        "pct_start": "`warmup_fraction`",
        "div_factor": "`initial_divisor`",
        "final_div_factor": "`final_divisor`",
    },
    "schedules.StepDecay": {
        **dict.fromkeys(("gamma", "decay_rate", "alpha"), "`factor`"),
        **dict.fromkeys(("milestones", "boundaries", "boundaries_and_scales"), "`at`, in steps"),
        **dict.fromkeys(("step_size", "decay_steps"), "`every`, in steps"),
        **dict.fromkeys(("lr", "learning_rate", "init_value"), "`initial_learning_rate`"),
    },
    "schedules.Triangular": {
        **_HIGH,
        **_LOW,
        "step_size": "`period`, twice the step size",
        "gamma": "`amplitude_decay`",
    },
    "schedules.Cooldown": {
        **dict.fromkeys(("decay_steps", "cooldown_steps", "epochs"), "`length`, in steps"),
        "alpha": "`to`, the last factor",
    },
    # What operations have in common; those that can be left out have a `probability`.
    "data.Configured": {
        **dict.fromkeys(
            ("p", "prob", "always_apply"),
            "it acts on every image",
        ),
        **dict.fromkeys(("interpolation", "resample"), "it is bilinear, and nearest for masks"),
    },
    "data.RandomFlip": {**_CHANCE, "direction": "`mode`"},
    **dict.fromkeys(
        (
            *("data.AutoContrast", "data.Equalize", "data.Posterize", "data.Sharpness", "data.Solarize"),
            "data.RandomErasing",
        ),
        _CHANCE,
    ),
    "data.RandomRotation": _DEGREES,
    "data.RandomShear": {**_DEGREES, "shear": "`angle`, in degrees"},
    "data.RandomStretch": {
        **_FILL,
        **dict.fromkeys(("scale", "scale_limit", "height_factor", "zoom_range"), "`factor`"),
    },
    "data.LensDistortion": {**_FILL, "distort_limit": "`coefficient`"},
    "data.TrivialAugment": _FILL,
    "data.RandomTranslation": {
        **_FILL,
        "height_factor": "`height`",
        "width_factor": "`width`",
        **dict.fromkeys(("translate", "shift_limit", "translate_percent"), "`height` and `width`"),
    },
    "data.RandomCrop": {"pad": "`padding`", "height": "`size`", "width": "`size`"},
    **dict.fromkeys(
        ("data.RandomResizedCrop", "data.CenterCrop", "data.ResizeShortSide"),
        dict.fromkeys(("height", "width", "max_size", "crop_size"), "`size`"),
    ),
    "data.ColorJitter": {
        "brightness_limit": "`brightness`",
        "contrast_limit": "`contrast`",
        "sat_shift_limit": "`saturation`",
        "hue_shift_limit": "`hue`",
    },
    "data.RandAugment": {
        **_FILL,
        **dict.fromkeys(("num_ops", "n", "num_layers"), "`num`"),
        "m": "`magnitude`",
    },
    "data.MixUp": {
        **_CHANCE,
        "mixup_alpha": "`alpha`",
        "classes": "`num_classes`",
        "label_smoothing": "the loss's own `label_smoothing`",
        "switch_prob": "`probability`, of `MixUp` and of `CutMix`",
    },
    "data.CutMix": {
        **_CHANCE,
        **dict.fromkeys(("cutmix_alpha", "beta"), "`alpha`"),
        "classes": "`num_classes`",
        "label_smoothing": "the loss's own `label_smoothing`",
        "switch_prob": "`probability`, of `MixUp` and of `CutMix`",
    },
    "data.Cutout": {
        **dict.fromkeys(("length", "mask_size", "max_h_size", "max_w_size"), "`size`"),
        **dict.fromkeys(("num_holes", "n_holes", "max_holes"), "one `Cutout` for each hole"),
    },
    "data.Posterize": {**_CHANCE, "num_bits": "`bits`"},
    "data.Standardize": {
        "std": "`std_value`, and `mean_value`",
        **dict.fromkeys(
            ("max_pixel_value", "normalization"), "`mean_value` and `std_value`, in the range of the images"
        ),
    },
    "data.pipeline": {
        **dict.fromkeys(("num_workers", "workers", "num_parallel"), "`num_parallel_calls`"),
        **dict.fromkeys(
            ("transforms", "transform", "augmentations", "augment", "item_tfms", "batch_tfms"), "`operations`"
        ),
        **dict.fromkeys(("bs", "batchsize"), "`batch_size`"),
        "drop_last": "`drop_remainder`",
        "dataset": "`source`",
    },
    "data.preview": dict.fromkeys(("n", "max_n", "num_images"), "`num`"),
    "inference.Ensemble": {
        "weights": "equal ones, or those that `select` finds on validation data",
        "voting": "`reduce`",
        "mode": "`reduce`",
    },
    "inference.marginalize": {
        **dict.fromkeys(("n", "n_samples", "num_samples", "samples", "mc_samples", "num_draws"), "`draws`"),
        **dict.fromkeys(("transforms", "tta", "augmentations"), "`views`, such as `data.Flips()`"),
        **dict.fromkeys(("merge_mode", "aggregation"), "`reduce`"),
        "return_std": "`spread`",
    },
    "inference.calibrate": {"mode": "`method`", "kind": "`method`"},
    "search.search": {
        **dict.fromkeys(("n_trials", "max_trials", "num_samples", "n_iter", "max_evals"), "`trials`"),
        **dict.fromkeys(("objective", "scoring"), "`metric`, of what `train` returns"),
        **dict.fromkeys(("n_jobs", "max_workers"), "`storage`, through which several processes share a search"),
        "param_distributions": "`space`",
        "executions_per_trial": "`repeats`",
        "study_name": "`name`",
    },
    "search.cross_validate": {
        **dict.fromkeys(("cv", "n_splits", "k"), "`folds`"),
        "scoring": "`metric`",
        "random_state": "`seed`",
    },
    "search.grid": {"param_grid": "`space`", "max_trials": "`points`, per parameter"},
    "transfer.freeze": dict.fromkeys(("n", "layers", "to"), "`until`, a layer's name"),
    "transfer.unfreeze": dict.fromkeys(("layers", "n", "from_layer"), "`start`, a layer's name"),
    "transfer.replace_head": dict.fromkeys(("classes", "n_out", "nb_classes", "c_out"), "`num_classes`"),
    "transfer.fine_tune": {
        **dict.fromkeys(("freeze_epochs", "epochs", "base_lr", "lr_mult"), "`plan`, which `recommend` makes"),
        "validation_data": "`validation`",
    },
    "transfer.backbone": {
        "pretrained": '`weights`, `"imagenet"` or `None`',
        "model_name": "`name`",
        "arch": "`name`",
    },
    "diagnostics.learning_rate_range": {
        **dict.fromkeys(("start_lr", "min_lr", "start_learning_rate"), "`low`"),
        **dict.fromkeys(("end_lr", "max_lr", "end_learning_rate"), "`high`"),
        **dict.fromkeys(("num_it", "num_iter", "num_training", "num_steps"), "`steps`"),
    },
    "diagnostics.preflight": {
        "batches": "`max_examples`",
        "num_sanity_val_steps": "`max_examples`",
        "timeout": "`seconds`",
    },
}


def foreign_argument(kind: type, name: str) -> str | None:
    """Returns what to type in place of an argument of another library, or `None` if the word isn't known."""
    # Callbacks and schedules share names, not arguments.
    keys = (f"{_room(base.__module__)}.{base.__name__}" for base in kind.__mro__)
    return _looked_up(keys, name)


def refuse_foreign(function: Callable[..., Any], given: Iterable[str]) -> None:
    """Raises a TypeError if a function was given an argument of another library by its name."""
    for name in given:
        ours = _looked_up([f"{_room(function.__module__)}.{function.__qualname__}"], name)
        if ours is not None:
            raise TypeError(f"`{function.__name__}` has no argument `{name}`: {ours}.")


def _room(module: str) -> str:
    return ".".join(module.split(".")[1:2])


def _looked_up(keys: Iterable[str], name: str) -> str | None:
    for key in keys:
        word = ARGUMENTS.get(key, {}).get(name.lower())
        if word is not None:
            return f"here it is {word}" if word.startswith("`") else word
    return None


def missing_names(room: str) -> Callable[[str], Any]:
    """Returns a module-level `__getattr__`, which says where a name of another library or another room is to be had.

    `from kregkit.callbacks import EMA` is then an ImportError that names `PolyakAveraging`. Python would replace the
    text of an AttributeError by its own, so a word of another library raises an ImportError, and so does another
    spelling, or what `from kregkit import PolyakAveraging` asks for. Names of Keras and of other rooms don't, as
    programs ask several modules for those by `hasattr`.
    """

    def __getattr__(name: str) -> Any:
        if not name.startswith("_") and importlib.util.find_spec(f"{room}.{name}") is None:
            rooms = _KERAS_ROOMS.get(room.rpartition(".")[2], ())
            ours = [f"kregkit.{place}" for place in _places(name) if f"kregkit.{place}" != f"{room}.{name}"]
            theirs = [f"{place}.{name}" for place in rooms if name in _in(place)]
            if ours or theirs:
                message = f"{room} has no `{name}`: here it is {' or '.join(f'`{place}`' for place in ours + theirs)}."
                known = _plain(name) in NAMES or any(place.startswith(f"{room}.") for place in ours)
                raise ImportError(message, name=room) if known and not theirs else AttributeError(message)
        raise AttributeError(f"module {room!r} has no attribute {name!r}")

    return __getattr__


def _places(name: str) -> Iterator[str]:
    """Yields where kregkit has something of this name, however it is spelled."""
    plain = _plain(name)
    if plain in NAMES:
        yield NAMES[plain]
        return
    for room in importlib.import_module("kregkit").__all__:
        offered = getattr(importlib.import_module(f"kregkit.{room}"), "__all__", ()) if room.isalpha() else ()
        yield from (f"{room}.{ours}" for ours in offered if _plain(ours) == plain)


def _in(place: str) -> list[str]:
    """Returns the names of a module of Keras, which may be loaded late."""
    return dir(functools.reduce(getattr, place.split(".")[1:], keras))


def _plain(name: str) -> str:
    return name.replace("_", "").lower()
