"""From a source to what `model.fit` reads: shuffled, augmented, batched, and every batch known in advance."""

import keras
import numpy as np
import tensorflow as tf

from kregkit._core.checks import check_boolean, check_integer, check_list, check_path, check_string
from kregkit.data._epochs import counted, integer_variable, plain, with_epoch
from kregkit.data._examples import Looks, Order
from kregkit.data._fields import Fields, check_single
from kregkit.data.augment import Augment
from kregkit.data.sources import open_source


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
    unmoved=(),
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
        cache: `True` keeps examples in memory (before augmentation), a path in a directory, one file each. A directory
            of another source is refused, as are damaged files. Delete it when the source changes. For what
            `image_folder` returns, say it there.
        split, data_dir: For TFDS names and builders, as in `kregkit.data.load`; `split` also for folders.
        image, label: The keys under which dictionaries hold images and labels. `image=None` says that nothing is an
            image: then all passes as it is.
        masks: The key of segmentation masks, which move along with the images; for pairs `(image, mask)`, `1`.
        unmoved: Key, or list of keys (integers for entries of a tuple), that may stay as they are while images move,
            though they look like boxes, points or masks: those are an error else.
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
        check_boolean(name, value)
    check_string("split", split)
    check_path("data_dir", data_dir, none=True)
    if not isinstance(operations, Augment):
        operations = check_list("operations", operations, empty=True)
    counter = _check_epoch(epoch)
    source = open_source(source, split, data_dir, cache, on_error, channels)
    augment = operations if isinstance(operations, Augment) else Augment(operations, value_range, fuse)
    order = Order(seed, source.size, shuffle and training, *_check_shard(shard))
    if not getattr(source, "batched", False):
        check_single(source.spec, image)
    looks = Looks(
        source, Fields(source.spec, image, label, masks, augment, training, unmoved, source.first_spec()), seed
    )
    looks.check_first()
    num_batches = order.num_examples()
    if num_batches is not None:
        num_batches = num_batches // batch_size if drop_remainder else -(-num_batches // batch_size)
        if batch and batch >= max(num_batches, 1):
            raise ValueError(f"`batch` must be less than the epoch's {num_batches}. Received: batch={batch}")
    start = integer_variable(batch, "start") if batch else None
    parallel = {"num_parallel_calls": num_parallel_calls, "deterministic": True}
    if getattr(source, "batched", False):
        dataset = _batches(source, order, looks, counter, start, num_batches, batch_size, parallel)
        if drop_remainder:
            dataset = dataset.map(plain(lambda *element: _static(element, batch_size)))
    else:
        if hasattr(source, "fetch"):
            dataset = _fetched(source, order, counter, start, batch_size, parallel)
        else:
            dataset = _streamed(source, order, counter, start, batch_size, buffer_size)
        dataset = _batched(dataset, looks, batch_size, drop_remainder, parallel)
        if source.skip:
            num_batches = None
        elif num_batches is not None and start is None:
            dataset = dataset.apply(tf.data.experimental.assert_cardinality(num_batches))
    dataset = counted(dataset.prefetch(prefetch), counter, start, num_batches, with_keys)
    dataset.source = source
    return dataset


def _batches(source, order, looks, counter, start, num_batches, batch_size, parallel):
    """Makes batches of a source that reads whole batches: an element is a batch's number from the beginning on."""
    num_examples = order.num_examples()

    def make(epoch, number):
        first = number * batch_size
        positions = first + tf.range(tf.minimum(tf.cast(batch_size, tf.int64), num_examples - first))
        index = order.index(epoch, positions)
        pair, keys = looks.prepare(epoch, index, source.fetch(index))
        return looks.finish(pair, keys), epoch, keys

    return with_epoch(tf.data.Dataset.range(num_batches), counter, start, 1).map(plain(make), **parallel)


def _fetched(source, order, counter, start, batch_size, parallel):
    """Reads single examples by their number: elements `(epoch, index, example)`."""

    def read(epoch, position):
        index = order.index(epoch, position)
        return epoch, index, source.fetch(index)

    # Which files are skipped shows in reading only, so that then those before the start are read as well.
    positions = tf.data.Dataset.range(order.num_examples())
    positions = with_epoch(positions, counter, None if source.skip else start, batch_size)
    dataset = positions.map(plain(read), **parallel)
    if source.skip:
        dataset = dataset.filter(plain(lambda epoch, index, example: example[1]))
        dataset = dataset.map(plain(lambda epoch, index, example: (epoch, index, example[0])))
        if start is not None:
            dataset = dataset.enumerate().filter(lambda number, _: number >= start.read_value() * batch_size)
            dataset = dataset.map(plain(lambda _, element: element))
    return dataset


def _streamed(source, order, counter, start, batch_size, buffer_size):
    """Reads a stream: elements `(epoch, index, example)`."""

    def one_epoch(epoch):
        dataset = order.stream(source.dataset, epoch, buffer_size)
        if start is not None:
            dataset = dataset.skip(start.read_value() * batch_size)
        return dataset.map(plain(lambda index, *parts: (epoch, index, parts[0] if len(parts) == 1 else parts)))

    return tf.data.Dataset.from_tensors(0).map(lambda _: counter.read_value()).flat_map(plain(one_epoch))


def _batched(dataset, looks, batch_size, drop_remainder, parallel):
    """Makes batches of single examples."""

    def prepare(epoch, index, element):
        pair, key = looks.prepare_one(epoch, index, element)
        return pair, index, epoch, key

    dataset = dataset.map(plain(prepare), **parallel)
    if batch_size > 1 and looks.has_sizes(dataset.element_spec[0][0]):
        dataset = looks.same_size(dataset, batch_size)
    dataset = dataset.batch(batch_size, drop_remainder)
    return dataset.map(plain(lambda pair, _, epoch, keys: (looks.finish(pair, keys), epoch[0], keys)), **parallel)


def _static(element, batch_size):
    def known(value):
        if value.shape.rank:
            value.set_shape((batch_size, *value.shape[1:]))
        return value

    content, epoch, keys = element
    return keras.tree.map_structure(known, content), epoch, known(keys)


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
    return integer_variable(epoch, "epoch")
