"""From a source to what `model.fit` reads: shuffled, augmented, batched, and every batch known in advance."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kregkit._core import rules
from kregkit._core.checks import check_boolean, check_choice, check_integer, check_list, check_path, check_string
from kregkit._core.notebook import as_html
from kregkit._core.types import Path, Tensor
from kregkit.data._annotations import nothing
from kregkit.data._distributed import MIN_STEPS, distributed
from kregkit.data._encoded import CHUNK, window_reader
from kregkit.data._encoded_streams import with_encoded_images
from kregkit.data._epochs import counted, integer_variable, plain, with_epoch
from kregkit.data._examples import Augmenter, Order
from kregkit.data._fields import Fields, check_single, get, put
from kregkit.data._image_files_in_graph import in_graph
from kregkit.data._in_range import InRange
from kregkit.data._open_source import open_source
from kregkit.data._passes import draws_numbers, starts_at_once
from kregkit.data._service import check_service, from_service
from kregkit.data._summary import summary
from kregkit.data.augment import Augment


@rules.checked()
def pipeline(
    source: Any,
    batch_size: int,
    operations: Sequence[Any] = (),
    seed: int | None = 0,
    training: bool = True,
    shuffle: bool = True,
    drop_remainder: bool = False,
    epoch: int = 0,
    batch: Tensor = 0,
    shard: Any = None,
    cache: bool | Path = False,
    service: str | None = None,
    *,
    split: Any = "train",
    data_dir: Path | None = None,
    image: str = "image",
    label: str = "label",
    masks: Tensor = None,
    boxes: Any = None,
    points: int | Mapping[str, int] | None = None,
    unmoved: Sequence[str] = (),
    value_range: tuple[float, float] = (0.0, 1.0),
    fuse: bool = True,
    with_keys: bool = False,
    buffer_size: int = 10_000,
    on_error: str = "raise",
    channels: Tensor = 3,
    orientation: bool = True,
    num_parallel_calls: int = tf.data.AUTOTUNE,
    prefetch: int = tf.data.AUTOTUNE,
) -> tf.data.Dataset:
    """Makes an ordinary `tf.data.Dataset` of augmented batches, for `model.fit` or anything else.

    What comes out is a pure function of `(seed, epoch, example)`: the same at any parallelism and any number of shards,
    new in each epoch, and reproducible from any batch on. Each complete pass advances the epoch by one, so
    `model.fit(dataset, epochs=90)` sees 90 different ones; a pass that stops before its end doesn't count. The
    dataset's attribute `epoch` is a variable that holds the next pass's epoch and can be set:
    `dataset.epoch.assign(5)`.

    **Shuffling.** A source with random access (arrays, folders, `.array_record`, sequences, cached streams of one
    shape) is permuted as a whole, by a function of `(seed, epoch)` that takes no memory. A stream (a
    `tf.data.Dataset`, TFDS's default files) is shuffled through a buffer of `buffer_size` examples, which mixes less,
    also keyed by `(seed, epoch)`.

    **Images** are found as `x` of `(x, y)` or `(x, y, sample_weight)`, or under a dictionary's key `image`; they come
    out as float32 in `value_range`. Everything else passes unchanged, except for labels that `MixUp` or `CutMix` mix,
    and masks, boxes and points that are said to be such. Elements without images pass unchanged if there are no
    operations.

    Args:
        source: Arrays with one first dimension (one, a tuple, a dictionary); a `tf.data.Dataset` of single examples,
            which come in one order in each pass; a TFDS name or builder; a folder of images, as for `image_folder`, or
            what that returns; an object with `__len__` and `__getitem__`.
        batch_size: Integer, of this worker; with a strategy as `shard`, of all replicas together, as in `fit`.
        operations: List of operations, or an `Augment`. Defaults to none.
        seed: Integer.
        training: Boolean. `False` gives the source's own order and leaves out what is random in the operations.
        shuffle: Boolean, whether to shuffle while training. Defaults to `True`.
        drop_remainder: Boolean, whether to leave out a last batch that is not full.
        epoch: Integer, the epoch that the first pass gives, or an int64 `tf.Variable` shared with other pipelines.
        batch: Integer, the batch at which the first pass starts; what comes is exactly what a run from the beginning
            would give there. (`fit` warns that this pass was short.) Later passes are whole. With `on_error="skip"`,
            the images before it are read too.
        shard: `None`, a pair `(index, count)`, the `tf.distribute.InputContext` that
            `strategy.distribute_datasets_from_function` hands out, or a `tf.distribute.Strategy`. The shards' union is
            the epoch, each example once; their sizes differ by at most one. A strategy knows this worker's place and
            its replicas; the steps of all workers together are then the batches that one process would train on.
        service: `None`, or the address of the dispatcher of a `tf.data` service, `"grpc://host:port"`, whose workers
            then make the batches: the same ones in the same order. It needs a source that TensorFlow reads with
            random access by itself: arrays, or a folder of JPEG and PNG files that all its workers see at the same
            path.
        cache: `True` keeps examples in memory (before augmentation), a path in a directory, one file each. A directory
            of another source is refused, as are damaged files. Delete it when the source changes. For what
            `image_folder` returns, say it there.
        split, data_dir: For TFDS names and builders, as in `kregkit.data.load`; `split` also for folders.
        image, label: The keys under which dictionaries hold images and labels. `image=None` says that nothing is an
            image: then everything passes unchanged.
        masks: The key of segmentation masks, which move along with the images; for pairs `(image, mask)`, `1`.
        boxes: The key of boxes `(num, 4)`, left, top, right and bottom in pixels, which move along with the images; or
            `Boxes`, which says any other format, what belongs to the boxes, and when one is dropped. In a batch all
            elements have the same number of rows, filled up by -1.
        points: The key of points `(num, 2)`, x and y in pixels, likewise, or `Points`.
        unmoved: Key, or list of keys (integers for entries of a tuple), of entries that may stay as they are while
            images move, although they look like boxes, points or masks. Without this they are an error.
        value_range, fuse: As for `Augment`.
        with_keys: Boolean, whether to give pairs `(element, keys)`: `Augment(operations)(images, keys)` replays them,
            except for mixing with partners of the epoch.
        buffer_size: Integer, of the buffer that shuffles streams.
        on_error: `"raise"`, or, for a folder of images, `"skip"` for files that can't be read, as in `image_folder`.
        channels: Integer, of decoded image files: 1, 3, 4, or 0 for what each file of a folder holds.
        orientation: Boolean, whether to turn photographs as the EXIF orientation in their file says: of a folder that
            is opened here, of a stream whose images are bytes, and of a TFDS set of JPEG files (not with `masks`,
            `boxes` or `points`, which belong to the images as a set stores them).
        num_parallel_calls, prefetch: As for `tf.data.Dataset.map` and `prefetch`; they change nothing but speed.

    Returns:
        A `tf.data.Dataset`, with attributes `epoch` (an int64 `tf.Variable`) and `source`, which notebooks show as a
        table of what it reads, does and gives; for a strategy, a `tf.distribute.DistributedDataset` with the same
        attributes.

    Raises:
        ValueError: if an argument doesn't fit the source: before anything is read, if possible.
        tf.errors.InvalidArgumentError: in a pass of a stream that gives no batch (a generator that is used up, a filter
            that nothing passes). It names the source. Empty shards of a stream are no error.

    Example:

    >>> from kregkit.data import ColorJitter, RandomCrop, digits, pipeline
    >>> images, labels = digits("train", as_arrays=True)
    >>> train = pipeline((images, labels), 32, [RandomCrop(1), ColorJitter(0.2, 0.2)], seed=1)
    >>> x, y = next(iter(train))
    >>> tuple(x.shape), x.dtype.name, y.dtype.name, len(train)
    ((32, 8, 8, 1), 'float32', 'int64', 45)
    """
    arguments = dict(locals())
    check_integer("batch_size", batch_size, 1)
    check_integer("seed", seed, -(2**63), 2**63 - 1)
    check_integer("batch", batch, 0)
    check_integer("buffer_size", buffer_size, 1)
    check_choice("channels", channels, (0, 1, 3, 4))
    for name, key in (("image", image), ("label", label)):
        rules.key(name, key)
    for name, value, low in (("num_parallel_calls", num_parallel_calls, 1), ("prefetch", prefetch, 0)):
        if value is not None and not (isinstance(value, int) and value == tf.data.AUTOTUNE):
            check_integer(name, value, low)
    for name, value in (
        ("training", training),
        ("shuffle", shuffle),
        ("drop_remainder", drop_remainder),
        ("with_keys", with_keys),
        ("orientation", orientation),
    ):
        check_boolean(name, value)
    check_string("split", split)
    check_path("data_dir", data_dir, none=True)
    if not isinstance(operations, Augment):
        operations = check_list("operations", operations, empty=True)
    counter = _check_epoch(epoch)
    given = source if isinstance(source, (str, os.PathLike, tf.data.Dataset)) else type(source).__name__
    alone = masks is None and boxes is None and points is None
    source = open_source(source, split, data_dir, cache, on_error, channels, orientation, alone)
    if operations.operations if isinstance(operations, Augment) else operations:
        source = with_encoded_images(source, image, channels, orientation)
    if isinstance(shard, tf.distribute.Strategy):
        return _distributed(source, {**arguments, "epoch": counter})
    augment = operations if isinstance(operations, Augment) else Augment(operations, value_range, fuse)
    place = _check_shard(shard)
    order = Order(seed, source.size, shuffle and training, place.index, place.count)
    if service is not None:
        check_service(service)
        if source.size is None or not hasattr(source, "fetch"):
            raise ValueError(
                "`service` needs a source with random access, such as arrays or a folder of images, so that its "
                f"workers can share the batches out. Received: service={service!r} with {type(source).__name__}"
            )
        source = in_graph(source)
    if getattr(source, "bits", 8) == 16:
        source = InRange(source, augment.value_range)
    if not getattr(source, "batched", False):
        check_single(source.spec, image)
    fields = Fields(source.spec, image, label, masks, augment, training, unmoved, source.first_spec(), boxes, points)
    augmenter = Augmenter(source, fields, seed)
    augmenter.check_first()
    reader = window_reader(source, order, augmenter)
    num_batches = order.num_examples()
    if num_batches is not None:
        num_batches = place.num_full(source.size, batch_size) if drop_remainder else -(-num_batches // batch_size)
        if drop_remainder and shard is None and not num_batches:
            raise ValueError(
                "`drop_remainder=True` leaves no batch: there are fewer examples than a batch takes. "
                f"Received: batch_size={batch_size}, examples={source.size}"
            )
        if batch and batch >= max(num_batches, 1):
            raise ValueError(f"`batch` must be less than the epoch's {num_batches}. Received: batch={batch}")
    start = integer_variable(batch, "start") if batch else None
    parallel = {"num_parallel_calls": num_parallel_calls, "deterministic": True}
    if service is not None and num_batches:

        def make(epoch, first):
            part = epoch, first, num_batches, batch_size, drop_remainder, parallel
            return _numbered(source, order, augmenter, reader, *part)

        dataset = from_service(service, make, counter, start, num_batches)
        if start is None:
            dataset = dataset.apply(tf.data.experimental.assert_cardinality(num_batches))
    elif getattr(source, "batched", False):
        dataset = _batches(source, order, augmenter, counter, start, num_batches, batch_size, parallel)
        if drop_remainder:
            dataset = dataset.map(plain(lambda *element: _static(element, batch_size)))
    else:
        if hasattr(source, "fetch"):
            limit = order.num_examples() if source.skip or not drop_remainder else num_batches * batch_size
            dataset = _fetched(source, order, reader, limit, counter, start, batch_size, parallel)
        else:
            stream = source.dataset if reader is None else source.encoded_dataset
            dataset = _streamed(stream, order, counter, start, batch_size, buffer_size)
            if reader is not None:
                dataset = reader.read_stream(dataset, parallel).batch(batch_size)
        if reader is not None:
            dataset = reader.finished(dataset, batch_size, drop_remainder, parallel)
        else:
            dataset = _batched(dataset, augmenter, batch_size, drop_remainder, parallel)
        if source.skip:
            num_batches = None
        elif num_batches is not None and start is None:
            dataset = dataset.apply(tf.data.experimental.assert_cardinality(num_batches))
    # A shard may be empty where the whole isn't, and so may what is left of a pass.
    named = f"{given!s:.200}" if shard is None and start is None and num_batches is None else ""
    dataset = counted(dataset.prefetch(prefetch), counter, start, num_batches, with_keys, named)
    if num_batches and service is None and not (hasattr(source, "dataset") and draws_numbers(source.dataset)):
        dataset = starts_at_once(dataset, num_batches, start)
    dataset.source = getattr(source, "original", source)
    dataset.augmented_fields = fields
    acting = augment.operations if training else [one for _, one in augment._active(False)]
    kind = "arrays" if getattr(source, "batched", False) else "a data set"
    what = str(given) if isinstance(arguments["source"], (str, os.PathLike)) else kind
    about = dataset.element_spec, source.size, num_batches, batch_size, what, acting, seed, counter
    # Without the data set itself, which would keep itself alive.
    dataset._repr_html_ = lambda: as_html(summary(*about))
    return dataset


def _distributed(source, arguments):
    """Returns the pipeline of a strategy, which reads this worker's examples only."""
    strategy, batch_size = arguments["shard"], arguments["batch_size"]
    replicas = strategy.num_replicas_in_sync
    if batch_size % replicas:
        raise ValueError(
            f"`batch_size` must be divisible by the strategy's {replicas} replicas, to each of which an equal part "
            f"goes. Received: batch_size={batch_size}"
        )
    num_steps = None
    if source.size is not None and not source.skip:
        num_steps = source.size // batch_size if arguments["drop_remainder"] else -(-source.size // batch_size)
        if num_steps < MIN_STEPS:
            raise ValueError(
                f"A strategy needs at least {MIN_STEPS} batches in an epoch, as TensorFlow reads some ahead: use a "
                f"smaller `batch_size`, or `shard=None`. Received: batch_size={batch_size} for {source.size} examples"
            )
    # Opened here, with the options that concern that.
    whole = hasattr(source, "fetch") or hasattr(source, "encoded_dataset")
    opened = {"cache": False, "on_error": "raise", "source": source if whole else source.dataset}

    def make(context):
        place = _Place(context.input_pipeline_id, context.num_input_pipelines, replicas // context.num_input_pipelines)
        # `batch` counts steps; each worker has a batch per replica and step.
        batch = arguments["batch"] * place.replicas
        own = {"batch_size": batch_size // replicas, "batch": batch, "shard": place}
        return pipeline(**{**arguments, **opened, **own})

    return distributed(strategy, make, num_steps)


def _batch_maker(source, order, augmenter, batch_size):
    """Returns what makes a batch `(content, epoch, keys)` of a source that reads whole batches, from its number."""
    num_examples = order.num_examples()

    def make(epoch, number):
        first = number * batch_size
        positions = first + tf.range(tf.minimum(tf.cast(batch_size, tf.int64), num_examples - first))
        index = order.index(epoch, positions)
        pair, keys = augmenter.prepare(epoch, index, source.fetch(index))
        return augmenter.finish(pair, keys), epoch, keys

    return make


def _batches(source, order, augmenter, counter, start, num_batches, batch_size, parallel):
    """Makes batches of a source that reads whole batches: an element is a batch's number from the beginning on."""
    make = _batch_maker(source, order, augmenter, batch_size)
    return with_epoch(tf.data.Dataset.range(num_batches), counter, start, 1).map(plain(make), **parallel)


def _numbered(source, order, augmenter, reader, epoch, first, num_batches, batch_size, drop_remainder, parallel):
    """Makes pairs `(number, batch)` of an epoch from batch `first` on, of a source with random access."""
    numbers = tf.data.Dataset.range(first, num_batches)
    epoch = tf.constant(epoch, tf.int64)
    if getattr(source, "batched", False):
        make = _batch_maker(source, order, augmenter, batch_size)

        def whole(number):
            batch = make(epoch, number)
            return number, _static(batch, batch_size) if drop_remainder else batch

        return numbers.map(plain(whole), **parallel)

    def read(position):
        index = order.index(epoch, position)
        return epoch, index, source.fetch(index)

    def one_batch(number):
        end = tf.minimum((number + 1) * batch_size, order.num_examples())
        dataset = tf.data.Dataset.range(number * batch_size, end)
        if reader is not None:
            chunks = dataset.batch(CHUNK).map(plain(lambda positions: (epoch, positions)))
            dataset = reader.read(chunks, parallel).batch(batch_size)
            dataset = reader.finished(dataset, batch_size, drop_remainder, parallel)
        else:
            dataset = dataset.map(plain(read), **parallel)
            dataset = _batched(dataset, augmenter, batch_size, drop_remainder, parallel)
        return dataset.map(plain(lambda *batch: (number, batch)))

    return numbers.flat_map(plain(one_batch))


def _fetched(source, order, reader, limit, counter, start, batch_size, parallel):
    """Reads the first `limit` examples of an epoch by number: `(epoch, index, example)`, or batches of a reader."""

    def read(epoch, position):
        index = order.index(epoch, position)
        return epoch, index, source.fetch(index)

    # Which files are skipped shows in reading only, so that then those before the start are read as well.
    positions = tf.data.Dataset.range(limit)
    begin = None if source.skip else start
    if reader is not None:
        dataset = reader.read(_chunks(positions, counter, begin, batch_size), parallel, with_gaps=True)
        zero = tf.constant(0, tf.int64)
        first = (lambda: zero) if begin is None else (lambda: start.read_value() * batch_size)
        dataset = reader.without_unreadable(dataset, batch_size, limit, first, counter)
    else:
        dataset = with_epoch(positions, counter, begin, batch_size).map(plain(read), **parallel)
        if source.skip:
            dataset = dataset.filter(plain(lambda epoch, index, example: example[1]))
            dataset = dataset.map(plain(lambda epoch, index, example: (epoch, index, example[0])))
    if source.skip and start is not None:
        per_batch = batch_size if reader is None else 1
        dataset = dataset.enumerate().filter(lambda number, _: number >= start.read_value() * per_batch)
        dataset = dataset.map(plain(lambda _, element: element))
    return dataset


def _chunks(positions, counter, start, batch_size):
    """Turns a dataset of positions into pairs `(epoch, positions)`, those before batch `start` left out."""
    chunks = with_epoch(positions.batch(CHUNK), counter, None, batch_size)
    if start is None:
        return chunks
    return chunks.map(
        plain(lambda epoch, chunk: (epoch, tf.boolean_mask(chunk, chunk >= start.read_value() * batch_size)))
    )


def _streamed(stream, order, counter, start, batch_size, buffer_size):
    """Reads a stream: elements `(epoch, index, example)`."""

    def one_epoch(epoch):
        dataset = order.stream(stream, epoch, buffer_size)
        if start is not None:
            dataset = dataset.skip(start.read_value() * batch_size)
        return dataset.map(plain(lambda index, *parts: (epoch, index, parts[0] if len(parts) == 1 else parts)))

    return tf.data.Dataset.from_tensors(0).map(lambda _: counter.read_value()).flat_map(plain(one_epoch))


def _batched(dataset, augmenter, batch_size, drop_remainder, parallel):
    """Makes batches of single examples."""

    def prepare(epoch, index, element):
        pair, key = augmenter.prepare_one(epoch, index, element)
        return pair, index, epoch, key

    dataset = dataset.map(plain(prepare), **parallel)
    if batch_size > 1 and augmenter.has_sizes(dataset.element_spec[0][0]):
        dataset = augmenter.same_size(dataset, batch_size)
    ragged = augmenter.fields.ragged_paths(dataset.element_spec[0][0])
    if ragged:
        dataset = dataset.map(plain(lambda pair, *rest: (_each(_to_ragged, pair, ragged), *rest)))
    dataset = dataset.batch(batch_size, drop_remainder)
    if ragged:
        dataset = dataset.map(plain(lambda pair, *rest: (_each(_from_ragged, pair, ragged), *rest)))
    return dataset.map(plain(lambda pair, _, epoch, keys: (augmenter.finish(pair, keys), epoch[0], keys)), **parallel)


def _each(function, pair, paths):
    """Applies a function to entries of both elements of a pair, the second of which may be `None`."""
    result = []
    for element in pair:
        for path in paths if element is not None else ():
            element = put(element, path, function(get(element, path)))
        result.append(element)
    return tuple(result)


def _to_ragged(value):
    return tf.RaggedTensor.from_tensor(value[None])


def _from_ragged(value):
    # Rows that an example doesn't have are boxes that aren't there.
    return value.merge_dims(0, 1).to_tensor(nothing(value.dtype))


def _static(element, batch_size):
    def known(value):
        if value.shape.rank:
            value.set_shape((batch_size, *value.shape[1:]))
        return value

    content, epoch, keys = element
    return keras.tree.map_structure(known, content), epoch, known(keys)


@dataclasses.dataclass
class _Place:
    """Which part of the examples a worker reads, and how many replicas of it take a batch in each step."""

    index: int = 0
    count: int = 1
    replicas: int = 1

    def num_full(self, size, batch_size):
        """Returns the number of full batches, the same on all workers, in whole steps."""
        return size // (self.count * self.replicas * batch_size) * self.replicas


def _check_shard(shard):
    if shard is None:
        return _Place()
    if isinstance(shard, _Place):
        return shard
    if isinstance(shard, tf.distribute.InputContext):
        return _Place(shard.input_pipeline_id, shard.num_input_pipelines)
    good = isinstance(shard, (tuple, list)) and len(shard) == 2
    good = good and all(isinstance(number, (int, np.integer)) for number in shard) and 0 <= shard[0] < shard[1]
    if not good:
        raise ValueError(
            "`shard` must be None, a tf.distribute.Strategy or InputContext, or a pair (index, count) with "
            f"0 <= index < count. Received: shard={shard!r}"
        )
    return _Place(int(shard[0]), int(shard[1]))


def _check_epoch(epoch):
    if isinstance(epoch, tf.Variable):
        if epoch.dtype != tf.int64 or epoch.shape.rank != 0:
            raise ValueError(f"`epoch` must be an integer or an int64 scalar variable. Received: epoch={epoch!r}")
        return epoch
    check_integer("epoch", epoch, 0)
    return integer_variable(epoch, "epoch")
