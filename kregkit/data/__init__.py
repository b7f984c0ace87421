"""From a TFDS name, arrays or files to what `model.fit` reads, with augmentation that is fast and replayable."""

from kregkit.data._random import make_keys
from kregkit.data._restoring import restore
from kregkit.data.augment import Augment
from kregkit.data.augment_layer import AugmentLayer
from kregkit.data.bundled_digits import digits
from kregkit.data.color import ColorJitter, PCAColorNoise
from kregkit.data.crops import CenterCrop, RandomCrop, RandomResizedCrop, ResizeShortSide
from kregkit.data.erasing import Cutout
from kregkit.data.geometry import (
    LensDistortion,
    RandomFlip,
    RandomRotation,
    RandomShear,
    RandomStretch,
    RandomTranslation,
)
from kregkit.data.image_folders import image_folder
from kregkit.data.loading import load
from kregkit.data.mixing import CutMix, MixUp
from kregkit.data.pipelines import pipeline
from kregkit.data.standardization import Standardize
from kregkit.data.views import FiveCrop, Flips, MultiScale, RandomViews, TenCrop, Views

__all__ = [
    "Augment",
    "AugmentLayer",
    "CenterCrop",
    "ColorJitter",
    "CutMix",
    "Cutout",
    "FiveCrop",
    "Flips",
    "LensDistortion",
    "MixUp",
    "MultiScale",
    "PCAColorNoise",
    "RandomCrop",
    "RandomFlip",
    "RandomResizedCrop",
    "RandomRotation",
    "RandomShear",
    "RandomStretch",
    "RandomTranslation",
    "RandomViews",
    "ResizeShortSide",
    "Standardize",
    "TenCrop",
    "Views",
    "digits",
    "image_folder",
    "load",
    "make_keys",
    "pipeline",
    "restore",
]
