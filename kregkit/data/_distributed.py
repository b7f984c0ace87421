"""A pipeline of which each worker and replica reads its own part."""

import tensorflow as tf

# TensorFlow fetches two steps to the devices ahead, also for the iterators that `fit` makes and never reads to the end.
# A pass that is over by then would count as an epoch.
MIN_STEPS = 5


class _CountedInSteps:
    """Mixed into TensorFlow's own class, which counts the batches of all replicas of this worker one by one.

    `fit` counts steps, and knows TensorFlow's class by its name.
    """

    @property
    def cardinality(self):
        return tf.data.UNKNOWN_CARDINALITY if self.num_steps is None else self.num_steps

    def __len__(self):
        if self.num_steps is None:
            raise TypeError("The number of steps is unknown: only reading tells how many examples there are")
        return self.num_steps


def distributed(strategy, make, num_steps):
    """Returns a `tf.distribute.DistributedDataset` that knows its length, with attributes `epoch` and `source`.

    Args:
        strategy: A `tf.distribute.Strategy`.
        make: Callable that returns this worker's pipeline, one batch per replica and step, from an `InputContext`.
        num_steps: Integer or None.
    """
    made = []

    def make_one(context):
        made.append(make(context))
        # After the last stage, which counts the epochs when a batch is taken, nothing may take batches ahead.
        options = tf.data.Options()
        options.experimental_optimization.inject_prefetch = False
        return made[-1].with_options(options)

    dataset = strategy.distribute_datasets_from_function(make_one)
    plain, kind = dataset, type("DistributedPipeline", (_CountedInSteps, type(dataset)), {})
    dataset = kind.__new__(kind)
    vars(dataset).update(vars(plain))
    dataset.num_steps, dataset.epoch, dataset.source = num_steps, made[0].epoch, made[0].source
    return dataset
