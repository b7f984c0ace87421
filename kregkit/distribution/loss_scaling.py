"""Let all replicas skip the same steps under loss scaling."""

import functools

import keras
from keras import ops

from kregkit._core import keras_internals
from kregkit._core.backends import require_tensorflow
from kregkit.distribution import _replicas


def enable_loss_scaling() -> bool:
    """Mends `keras.optimizers.LossScaleOptimizer` under `tf.distribute`: NaN weights under `mixed_float16`.

    A `LossScaleOptimizer` skips the steps whose gradients overflow. Keras asks the first replica only whether they
    have, before the gradients of all replicas are summed. If another replica's have, their sum is infinite, and the
    update turns the weights into NaN, for good. On several workers some skip a step that others wait for, for ever.
    Mended: a step is skipped on all replicas if the gradients of one are not finite.

    It holds for the process and for all optimizers, also for those that exist; a second call does nothing more.
    Nothing changes without a strategy, or where Keras no longer has the fault. `enable_multi_worker` calls it, and
    kregkit's callbacks refuse such a `fit` without it.

    Returns:
        Boolean, whether Keras needs the mend.

    Raises:
        RuntimeError: Keras runs on another backend than TensorFlow.

    Example:

    >>> from kregkit import distribution
    >>> needed = distribution.enable_loss_scaling()
    """
    require_tensorflow("enable_loss_scaling")
    optimizer = keras.optimizers.LossScaleOptimizer
    if not keras_internals.loss_scaling_asks_one_replica():
        return False
    if not hasattr(optimizer.check_finite, "__wrapped__"):
        optimizer.check_finite = _finite_everywhere(optimizer.check_finite)
    return True


def _finite_everywhere(check_finite):
    @functools.wraps(check_finite)
    def finite_everywhere(self, grads):
        finite = check_finite(self, grads)
        return ops.equal(_replicas.sum_over_replicas(ops.cast(finite, "float32")), _replicas.num_replicas())

    return finite_everywhere
