"""Whether arrays agree bit for bit."""


def same_bits(values, others):
    """Returns whether two lists of arrays agree bit for bit; NaN equals the same NaN, `0.0` is not `-0.0`."""
    return len(values) == len(others) and all(
        one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
        for one, other in zip(values, others)
    )
