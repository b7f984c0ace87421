"""From a source to what `model.fit` reads: shuffled, augmented, batched, and every batch known in advance."""

import keras
import numpy as np
import tensorflow as tf

from kregkit._core.checks import check_choice, check_integer
from kregkit.data._fields import Fields
from kregkit.data._random import make_keys, uniform
from kregkit.data.augment import Augment
from kregkit.data.sources import open_source

# Autograph would turn this module's Python conditions into code of its own.
_plain = tf.autograph.experimental.do_not_convert


def pipeline(
    source,
    batch_size,
    operations=(),
    seed=0,
    training=True,
    shuffle=True,
    drop_remainder=False,
    epoch=0,
    batch=0,
    shard=None,
    cache=False,
    *,
    split="train",
    data_dir=None,
    image="image",
    label="label",
    masks=None,
    value_range=(0.0, 1.0),
    fuse=True,
    with_keys=False,
    buffer_size=10_000,
    on_error="raise",
    channels=3,
    num_parallel_calls=tf.data.AUTOTUNE,
    prefetch=tf.data.AUTOTUNE,
):
    """Makes an ordinary `tf.data.Dataset` of augmented batches, for `model.fit` or anything else.

    What comes out is a pure function of `(seed, epoch, example)`: the same at any parallelism and any number of
    shards, new in each epoch, and reproducible from any batch on. Each complete pass advances the epoch by one, so
    `model.fit(dataset, epochs=90)` sees 90 different ones; a pass that is left before its end doesn't count. The
    dataset's attribute `epoch`, a variable, tells the next pass's epoch and can be set: `dataset.epoch.assign(5)`.

    **Shuffling.** A source with random access (arrays, folders, `.array_record`, sequences, cached streams of one
    shape) is permuted as a whole, by a function of `(seed, epoch)` that takes no memory. A stream (a
    `tf.data.Dataset`, TFDS's default files) is shuffled through a buffer of `buffer_size` examples, as well as
    that mixes, keyed by `(seed, epoch)` too.

    **Images** are found as `x` of `(x, y)` or `(x, y, sample_weight)`, or under a dictionary's key `image`; they come
    out as float32 in `value_range`. Everything else passes untouched, but for labels that `MixUp` or `CutMix` mix,
    and `masks`. Elements that are no images pass whole, where there are no operations.

    Args:
        source: Arrays with one first dimension (one, a tuple, a dictionary); a `tf.data.Dataset` of single examples,
            which come in one order in each pass; a TFDS name or builder; a folder of images, as for `image_folder`, or
            what that returns; an object with `__len__` and `__getitem__`.
        batch_size: Integer, of this worker.
        operations: List of operations, or an `Augment`. Defaults to none.
        seed: Integer.
        training: Boolean. `False` gives the source's own order and leaves out what is random in the operations.
        shuffle: Boolean, whether to shuffle while training. Defaults to `True`.
        drop_remainder: Boolean, whether to leave out a last batch that is not full.
        epoch: Integer, the epoch that the first pass gives, or an int64 `tf.Variable` shared with other pipelines.
        batch: Integer, the batch at which the first pass starts; what comes is exactly what a run from the beginning
            would give there. (`fit` warns that this pass was short.) Later passes are whole. With `on_error="skip"`,
            the images before it are read too.
        shard: `None`, a pair `(index, count)`, or the `tf.distribute.InputContext` that
            `strategy.distribute_datasets_from_function` hands out. The shards' union is the epoch, each example once;
            their sizes differ by at most one.
        cache: `True` keeps examples in memory (before augmentation), a path on the disk: a stream in files whose names
            begin with it, sources with random access in a directory. Delete them when the source changes. For what
            `image_folder` returns, say it there.
        split, data_dir: For TFDS names and builders, as in `kregkit.data.load`; `split` also for folders.
        image, label: The keys under which dictionaries hold images and labels.
        masks: The key of segmentation masks, which move along with the images; for pairs `(image, mask)`, `1`.
        value_range, fuse: As for `Augment`.
        with_keys: Boolean, whether to give pairs `(element, keys)`: `Augment(operations)(images, keys)` replays them,
            but for what is mixed with partners of the epoch.
        buffer_size: Integer, of the buffer that shuffles streams.
        on_error: `"raise"`, or, for a folder of images, `"skip"` for files that can't be read, as in `image_folder`.
        channels: Integer, of decoded image files.
        num_parallel_calls, prefetch: As for `tf.data.Dataset.map` and `prefetch`; they change nothing but speed.

    Returns:
        A `tf.data.Dataset`, with attributes `epoch` (an int64 `tf.Variable`) and `source`.

    Raises:
        ValueError: if an argument doesn't fit the source: before anything is read, where that can be told.

    Example:

    >>> from kregkit.data import ColorJitter, RandomCrop, digits, pipeline
    >>> images, labels = digits("train", as_arrays=True)
    >>> train = pipeline((images, labels), 32, [RandomCrop(1), ColorJitter(0.2, 0.2)], seed=1)
    >>> x, y = next(iter(train))
    >>> tuple(x.shape), x.dtype.name, y.dtype.name, len(train)
    ((32, 8, 8, 1), 'float32', 'int64', 45)
    """
    check_integer("batch_size", batch_size, 1)
    check_integer("seed", seed, -(2**63), 2**63 - 1)
    check_integer("batch", batch, 0)
    check_integer("buffer_size", buffer_size, 1)
    for name, value in (
        ("training", training),
        ("shuffle", shuffle),
        ("drop_remainder", drop_remainder),
        ("with_keys", with_keys),
    ):
        check_choice(name, value, (True, False))
    shard, num_shards = _check_shard(shard)
    counter = _check_epoch(epoch)
    source = open_source(source, split, data_dir, cache, on_error, channels)
    augment = operations if isinstance(operations, Augment) else Augment(list(operations), value_range, fuse)
    fields = Fields(source.spec, image, label, masks, augment)
    job = _Job(source, fields, augment, seed, training, batch_size, shard, num_shards)
    start = None
    if batch:
        with tf.device("CPU:0"):
            start = tf.Variable(batch, dtype=tf.int64, trainable=False, name="start")
    shuffle = shuffle and training
    parallel = {"num_parallel_calls": num_parallel_calls, "deterministic": True}

    if hasattr(source, "fetch"):
        examples = (source.size - shard + num_shards - 1) // num_shards
        num_batches = examples // batch_size if drop_remainder else -(-examples // batch_size)
        if batch >= max(num_batches, 1):
            raise ValueError(f"`batch` must be less than the epoch's {num_batches}. Received: batch={batch}")
        if source.batched:
            # Whole batches from here on: an element is its place in the epoch.
            places = tf.data.Dataset.range(num_batches)
            places = _with_epoch(places, counter, start, 1)
            dataset = places.map(_plain(lambda e, b: job.make_batch(e, b, examples, shuffle)), **parallel)
            if drop_remainder:
                dataset = dataset.map(_plain(lambda *element: _static(element, batch_size)))
        else:
            # Which places are skipped shows in reading only, so that then those before the start are read as well.
            places = tf.data.Dataset.range(examples)
            places = _with_epoch(places, counter, None if source.skip else start, batch_size)
            dataset = places.map(_plain(lambda e, p: job.read(e, job.index(e, p, shuffle))), **parallel)
            if source.skip:
                dataset = dataset.filter(_plain(lambda epoch, index, example: example[1]))
                dataset = dataset.map(_plain(lambda epoch, index, example: (epoch, index, example[0])))
                if start is not None:
                    dataset = dataset.enumerate().filter(lambda place, _: place >= start.read_value() * batch_size)
                    dataset = dataset.map(_plain(lambda _, example: example))
                num_batches = None
            dataset = dataset.map(_plain(job.make_example), **parallel)
            dataset = dataset.batch(batch_size, drop_remainder)
            dataset = dataset.map(_plain(job.finish), **parallel)
    else:
        dataset, num_batches = _stream(job, counter, start, shuffle, buffer_size, drop_remainder, parallel)
    dataset = dataset.prefetch(prefetch)
    return _counted(dataset, counter, start, num_batches, with_keys, source)


class _Job:
    """What turns places of an epoch into augmented elements."""

    def __init__(self, source, fields, augment, seed, training, batch_size, shard, num_shards):
        self.source, self.fields, self.augment = source, fields, augment
        self.seed, self.training, self.batch_size = seed, training, batch_size
        self.shard, self.num_shards = shard, num_shards
        # Partners from the whole epoch need random access.
        self.epoch_partners = (
            training
            and augment.mixes
            and hasattr(source, "fetch")
            and all(getattr(one, "partners", "epoch") == "epoch" for one in augment.operations)
        )

    def index(self, epoch, place, shuffle):
        """Returns which example stands at a place of this shard's epoch."""
        place = place * self.num_shards + self.shard
        if not shuffle:
            return place
        key = tf.bitcast(make_keys(self.seed, epoch, -2), tf.int32)
        size = tf.cast(self.source.size - 1, tf.int64)
        return tf.random.experimental.index_shuffle(place, key, size)

    def make_batch(self, epoch, batch, examples, shuffle):
        first = batch * self.batch_size
        places = first + tf.range(tf.minimum(tf.cast(self.batch_size, tf.int64), examples - first))
        index = self.index(epoch, places, shuffle)
        keys = make_keys(self.seed, epoch, index)
        element = self.source.fetch(index)
        if self.fields.image is None:
            return element, epoch, batch, keys
        if not self.epoch_partners:
            return self.fields.apply(element, keys, self.training), epoch, batch, keys
        partner = self.partner(keys)
        other, other_keys = self.source.fetch(partner), make_keys(self.seed, epoch, partner)
        element = self.fields.transform(element, keys, self.training)
        other = self.fields.transform(other, other_keys, self.training)
        return self.fields.mix(element, other, keys), epoch, batch, keys

    def partner(self, keys):
        """Returns which example of the source each is mixed with."""
        # 24 bits from each of two draws reach every example of a source of up to 2^48.
        u = tf.cast(uniform(keys, "partner", 2), tf.float64)
        place = (u[:, 0] + u[:, 1] * 2.0**-24) * float(self.source.size)
        return tf.minimum(tf.cast(place, tf.int64), self.source.size - 1)

    def read(self, epoch, index):
        return epoch, index, self.source.fetch(index)

    def make_example(self, epoch, index, element):
        key = make_keys(self.seed, epoch, index)
        if self.fields.image is not None:
            # Before batching, since sizes may differ until an operation makes them equal.
            one = self._transformed(element, key)
            if self.epoch_partners:
                one = self.fields.mix(one, self._partner_of(one, epoch, key), key[None])
            element = keras.tree.map_structure(lambda value: value[0], one)
        return element, epoch, key

    def _transformed(self, element, key):
        one = keras.tree.map_structure(lambda value: value[None], element)
        return self.fields.transform(one, key[None], self.training)

    def _partner_of(self, one, epoch, key):
        index = self.partner(key[None])[0]
        other, key = self.source.fetch(index), make_keys(self.seed, epoch, index)
        if not self.source.skip:
            return self._transformed(other, key)
        # An example whose partner can't be read stays as it is.
        other, good = other
        return tf.cond(good, lambda: self._transformed(other, key), lambda: one)

    def finish(self, element, epoch, keys):
        if self.fields.image is not None and not self.training:
            element = self.fields.one_hot(element)
        elif self.fields.image is not None and self.augment.mixes and not self.epoch_partners:
            element = self.fields.mix(element, None, keys)
        return element, epoch[0], tf.constant(-1, tf.int64), keys


def _with_epoch(places, counter, start, per_batch):
    """Turns a dataset of places into pairs `(epoch, place)`; the epoch is read once, when the pass begins."""

    def read(state, place):
        epoch = tf.cond(state < 0, counter.read_value, lambda: state)
        return epoch, (epoch, place)

    dataset = places.scan(tf.constant(-1, tf.int64), _plain(read))
    if start is not None:
        dataset = dataset.filter(lambda epoch, place: place >= start.read_value() * per_batch)
    return dataset


def _stream(job, counter, start, shuffle, buffer_size, drop_remainder, parallel):
    source = job.source
    size = source.size
    if size is not None:
        size = (size - job.shard + job.num_shards - 1) // job.num_shards
    num_batches = None
    if size is not None:
        num_batches = size // job.batch_size if drop_remainder else -(-size // job.batch_size)
    if start is not None and num_batches is not None and int(start) >= max(num_batches, 1):
        raise ValueError(f"`batch` must be less than the epoch's {num_batches}. Received: batch={int(start)}")

    def one_epoch(epoch):
        dataset = source.dataset.enumerate()
        if shuffle:
            graph = tf.compat.v1.get_default_graph()
            # `shuffle` would mix in the global seed, so that `set_random_seed` changed the order.
            global_seed, graph.seed = graph.seed, None
            key = make_keys(job.seed, epoch, -1)
            dataset = dataset.shuffle(buffer_size, seed=key, reshuffle_each_iteration=False)
            graph.seed = global_seed
        # After the shuffle: shards that shuffle alone would each mix a part only.
        dataset = dataset.shard(job.num_shards, job.shard)
        if start is not None:
            dataset = dataset.skip(start.read_value() * job.batch_size)
        return dataset.map(_plain(lambda index, *element: (epoch, index, element[0] if len(element) == 1 else element)))

    dataset = tf.data.Dataset.from_tensors(0).map(lambda _: counter.read_value()).flat_map(_plain(one_epoch))
    dataset = dataset.map(_plain(job.make_example), **parallel)
    dataset = dataset.batch(job.batch_size, drop_remainder).map(_plain(job.finish), **parallel)
    if num_batches is not None and start is None:
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(num_batches))
    return dataset, num_batches


def _counted(dataset, counter, start, num_batches, with_keys, source):
    """Sets the counter to the next epoch when a pass hands out its last batch."""

    def advance(epoch):
        counter.assign(epoch + 1)
        if start is not None:
            start.assign(0)

    def hand_out(number, batch):
        element, epoch, _, keys = batch
        if num_batches:
            # After the prefetch, so that it happens when the batch is taken and not when it is made ready. Not in a
            # stage of its own at the end: `fit` stops asking once it has had as many batches as there are.
            first = tf.constant(0, tf.int64) if start is None else start.read_value()
            with tf.control_dependencies(
                [tf.cond(first + number + 1 >= num_batches, lambda: _do(advance, epoch), _no)]
            ):
                element = keras.tree.map_structure(tf.identity, element)
        return (element, keys) if with_keys else element

    if not num_batches:
        # No last batch is known, or there is none: a last, empty stage counts.
        spec = dataset.element_spec
        end = tf.data.Dataset.from_tensors(0).map(_plain(lambda _: _do(advance, counter.read_value())))
        end = end.filter(_plain(lambda _: tf.constant(False)))
        end = end.map(_plain(lambda _: keras.tree.map_structure(_nothing, spec)))
        dataset = dataset.concatenate(end)
    result = dataset.enumerate().map(_plain(hand_out))
    if num_batches == 0:
        result = result.apply(tf.data.experimental.assert_cardinality(0))
    if start is not None and num_batches is not None:
        # Whole passes are what `fit` should count on; only the first one is shorter.
        result.cardinality = lambda: tf.constant(num_batches, tf.int64)
    result.epoch = counter
    result.source = source
    return result


def _nothing(spec):
    return tf.zeros([size or 0 for size in spec.shape], spec.dtype)


def _do(function, epoch):
    function(epoch)
    return tf.constant(0)


def _no():
    return tf.constant(0)


def _static(element, batch_size):
    def known(value):
        if value.shape.rank:
            value.set_shape((batch_size, *value.shape[1:]))
        return value

    content, epoch, batch, keys = element
    return keras.tree.map_structure(known, content), epoch, batch, known(keys)


def _check_shard(shard):
    if shard is None:
        return 0, 1
    if isinstance(shard, tf.distribute.InputContext):
        return shard.input_pipeline_id, shard.num_input_pipelines
    good = isinstance(shard, (tuple, list)) and len(shard) == 2
    good = good and all(isinstance(number, (int, np.integer)) for number in shard) and 0 <= shard[0] < shard[1]
    if not good:
        raise ValueError(
            "`shard` must be None, a tf.distribute.InputContext, or a pair (index, count) with 0 <= index < count. "
            f"Received: shard={shard!r}"
        )
    return int(shard[0]), int(shard[1])


def _check_epoch(epoch):
    if isinstance(epoch, tf.Variable):
        if epoch.dtype != tf.int64 or epoch.shape.rank != 0:
            raise ValueError(f"`epoch` must be an integer or an int64 scalar variable. Received: epoch={epoch!r}")
        return epoch
    check_integer("epoch", epoch, 0)
    with tf.device("CPU:0"):
        return tf.Variable(epoch, dtype=tf.int64, trainable=False, name="epoch")
