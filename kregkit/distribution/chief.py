"""Which worker writes what all workers share."""

from typing import Any

from kregkit._core.workers import worker_of


def is_chief(strategy: Any) -> bool:
    """Returns whether this process is the one that writes files, draws pictures and prints for all workers.

    It is the chief of `TF_CONFIG`, or worker 0 where there is none. Under every other strategy there is one process,
    which is its own chief. What kregkit's callbacks write, the chief writes.

    Args:
        strategy: A `tf.distribute.Strategy`, or None.

    Example:

    >>> from kregkit import distribution
    >>> distribution.is_chief(None)
    True
    """
    if strategy is not None and not hasattr(strategy, "cluster_resolver"):
        raise ValueError(f"`strategy` must be a tf.distribute.Strategy or None. Received: strategy={strategy!r}")
    return worker_of(strategy).is_chief
