"""From a TFDS name, arrays or files to what `model.fit` reads, with augmentation that is fast and replayable."""

from kregkit._core.words import missing_names
from kregkit.data._random import make_keys
from kregkit.data._restoring import restore
from kregkit.data.annotations import Boxes, Points
from kregkit.data.augment import Augment
from kregkit.data.augment_layer import AugmentLayer
from kregkit.data.automatic import RandAugment, TrivialAugment
from kregkit.data.bundled_digits import digits
from kregkit.data.color import ColorJitter, PCAColorNoise
from kregkit.data.crop_views import FiveCrop, TenCrop
from kregkit.data.crops import CenterCrop, RandomCrop, RandomResizedCrop, ResizeShortSide
from kregkit.data.erasing import Cutout, RandomErasing
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
from kregkit.data.previews import Preview, preview
from kregkit.data.standardization import Standardize
from kregkit.data.tones import AutoContrast, Equalize, Posterize, Sharpness, Solarize
from kregkit.data.view_sets import D4, Scales, ViewProduct
from kregkit.data.views import Flips, MultiScale, RandomViews, Views

__all__ = [
    "D4",
    "Augment",
    "AugmentLayer",
    "AutoContrast",
    "Boxes",
    "CenterCrop",
    "ColorJitter",
    "CutMix",
    "Cutout",
    "Equalize",
    "FiveCrop",
    "Flips",
    "LensDistortion",
    "MixUp",
    "MultiScale",
    "PCAColorNoise",
    "Points",
    "Posterize",
    "Preview",
    "RandAugment",
    "RandomCrop",
    "RandomErasing",
    "RandomFlip",
    "RandomResizedCrop",
    "RandomRotation",
    "RandomShear",
    "RandomStretch",
    "RandomTranslation",
    "RandomViews",
    "ResizeShortSide",
    "Scales",
    "Sharpness",
    "Solarize",
    "Standardize",
    "TenCrop",
    "TrivialAugment",
    "ViewProduct",
    "Views",
    "digits",
    "image_folder",
    "load",
    "make_keys",
    "pipeline",
    "preview",
    "restore",
]

__getattr__ = missing_names(__name__)
