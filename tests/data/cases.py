"""This room's rows in the table of public components."""

from contracts import COMPILED, Case

from kregkit.data import AugmentLayer, ColorJitter, Cutout, LensDistortion, RandomCrop, RandomFlip, RandomRotation

CASES = [
    Case(
        AugmentLayer,
        # The inputs are normal draws.
        lambda: AugmentLayer([RandomFlip(), RandomCrop(1), ColorJitter(0.2, 0.2, 0.2), Cutout(2)], (-9.0, 9.0), seed=1),
        input_shape=(8, 8, 3),
        same=False,
        bad=[
            ({"operations": [3]}, "`operations` must be"),
            ({"operations": [], "value_range": (1, 0)}, "`value_range` must be"),
            ({"operations": [], "fuse": 1.5}, "`fuse` must be"),
        ],
    ),
    Case(
        AugmentLayer,
        lambda: AugmentLayer([RandomCrop(1, size=6), RandomRotation(10), LensDistortion()], (-1.0, 1.0), seed=1),
        input_shape=(8, 8, 1),
        same=False,
        modes=COMPILED,
        name="warp",
    ),
]
