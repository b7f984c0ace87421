"""One seed from several numbers."""

import numpy as np


def derived_seed(*numbers):
    """Returns a seed in `[0, 2**32)`, hashed from non-negative integers.

    Adding instead would give seed 0 of layer 1 the numbers of seed 1 of layer 0. Calls that must differ need equally
    many numbers, since `SeedSequence` ignores zeros at the end.

    >>> derived_seed(0, 1) == derived_seed(1, 0)
    False
    """
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
