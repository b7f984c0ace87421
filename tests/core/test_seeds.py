"""Seeds that are hashed from several numbers."""

from kregkit._core.seeds import derived_seed


def test_no_two_sets_of_numbers_share_a_seed():
    seeds = {derived_seed(a, b, c) for a in range(10) for b in range(10) for c in range(10)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_same_numbers_give_the_same_seed():
    assert derived_seed(3, 1, 4) == derived_seed(3, 1, 4)
