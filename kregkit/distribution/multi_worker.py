"""Let `model.fit` run under `tf.distribute.MultiWorkerMirroredStrategy`."""

import functools
import inspect

import keras

from kregkit._core import keras_internals
from kregkit._core.backends import require_tensorflow
from kregkit._core.workers import worker_of
from kregkit.distribution.loss_scaling import enable_loss_scaling

# The lines of Keras 3.15 that fail on several workers; they stand in 3.16 too. Where they are gone, Keras has changed
# the place, and nothing is mended.
_BUILD_FAULT = 'data_batch = self.distribute_strategy.reduce( "MEAN",'
_LOGS_FAULT = 'return strategy.reduce("MEAN", v, axis=0)'


def enable_multi_worker() -> tuple[str, ...]:
    """Mends what makes Keras's `fit` fail under `tf.distribute.MultiWorkerMirroredStrategy`.

    Call it once per process, before `fit`. With several workers, stock Keras fails in two places, and hangs in a third
    ([keras#20585](https://github.com/keras-team/keras/issues/20585)):

    - It builds the model on the mean of the first batch over all workers, which can't be computed. Mended: on this
      worker's batch, of which only shapes and types matter.
    - It reduces the logs, which are scalars, along their first axis. Mended: the mean over all replicas.
    - Under loss scaling each worker judges for itself whether gradients are finite: see `enable_loss_scaling`, which
      is called too.

    Nothing else changes, and nothing at all with one worker. Each mend is left out where Keras no longer has the line
    that fails. It holds for the process; a second call does nothing more.

    Returns:
        Tuple of strings, what was mended: some of `"build"`, `"logs"` and `"loss scaling"`; empty where Keras does it
        all itself.

    Raises:
        RuntimeError: Keras runs on another backend than TensorFlow.

    Example:

    >>> from kregkit import distribution
    >>> mended = distribution.enable_multi_worker()
    >>> distribution.enable_multi_worker() == mended
    True
    """
    require_tensorflow("enable_multi_worker")
    mended = []
    for what, find, fault, make in (
        ("build", keras_internals.symbolic_build_of_fit, _BUILD_FAULT, _build_on_local_batch),
        ("logs", keras_internals.reduction_of_replicas, _LOGS_FAULT, _reduce_over_workers),
    ):
        owner, name, function = find()
        # The source is that of Keras's own function, also where a mend is around it.
        if fault in " ".join(inspect.getsource(inspect.unwrap(function)).split()):
            mended.append(what)
            if not hasattr(function, "__wrapped__"):
                setattr(owner, name, make(function))
    return (*mended, *(["loss scaling"] if enable_loss_scaling() else []))


def _build_on_local_batch(build):
    @functools.wraps(build)
    def build_on_local_batch(self, iterator=None, data_batch=None):
        strategy = self.distribute_strategy
        if iterator is not None and worker_of(strategy).count > 1:
            batch = next(next(iter(iterator))[-1])
            data_batch = keras.tree.map_structure(lambda part: strategy.experimental_local_results(part)[0], batch)
            iterator = None
        return build(self, iterator=iterator, data_batch=data_batch)

    return build_on_local_batch


def _reduce_over_workers(reduce):
    @functools.wraps(reduce)
    def reduce_over_workers(values, strategy, reduction):
        if reduction in ("auto", "mean", "sum") and worker_of(strategy).count > 1:
            operation = "SUM" if reduction == "sum" else "MEAN"
            return keras.tree.map_structure(lambda value: strategy.reduce(operation, value, axis=None), values)
        return reduce(values, strategy, reduction)

    return reduce_over_workers
