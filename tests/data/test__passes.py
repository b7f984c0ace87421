"""Each case is compared with `reference`: a dataset derived from the pipeline, which makes a new iterator per pass."""

import gc
import itertools
import time
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf

from kregkit.data import RandomCrop, RandomFlip, pipeline
from kregkit.data._passes import draws_numbers

pytestmark = pytest.mark.one_in(2)

RNG = np.random.default_rng(0)
NUM = 23
X = RNG.integers(0, 256, (NUM, 4, 4, 1), dtype="uint8")
Y = np.arange(NUM)


def stream():
    return tf.data.Dataset.from_tensor_slices((X, Y))


class Sequence:
    def __len__(self):
        return NUM

    def __getitem__(self, index):
        return X[index], Y[index]


def counting():
    """A generator that tells how often it was called."""
    calls = itertools.count()

    def generate():
        number = next(calls)
        yield from ((x, y + 100 * number) for x, y in zip(X, Y))

    signature = (tf.TensorSpec((4, 4, 1), tf.uint8), tf.TensorSpec((), tf.int64))
    dataset = tf.data.Dataset.from_generator(generate, output_signature=signature)
    return dataset.apply(tf.data.experimental.assert_cardinality(NUM))


def noisy():
    return stream().map(lambda x, y: (x, tf.random.uniform((), seed=4)))


SOURCES = {
    "arrays": lambda: (X, Y),
    "stream": stream,
    "sequence": Sequence,
    "shuffled": lambda: stream().shuffle(9, seed=3),
    "shuffled once": lambda: stream().shuffle(9, seed=3, reshuffle_each_iteration=False),
    "generator": counting,
    "random numbers": noisy,
    "unknown length": lambda: stream().filter(lambda x, y: y != 3),
}


def make(name="arrays", operations=(), **arguments):
    # The order tells the epochs apart; operations would have to be compiled.
    tf.random.set_seed(1)
    return pipeline(SOURCES[name](), 5, operations, seed=2, **arguments)


def reference(*args, **arguments):
    """The pipeline, and the dataset to read it by."""
    dataset = make(*args, **arguments)
    return dataset, dataset.with_options(tf.data.Options())


def batches(dataset):
    return [keras.tree.map_structure(lambda value: value.numpy(), batch) for batch in dataset]


def assert_same(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other):
        for u, v in zip(keras.tree.flatten(a), keras.tree.flatten(b), strict=True):
            np.testing.assert_array_equal(u, v)


def series(dataset):
    return list(getattr(dataset, "_series", []))


@pytest.mark.parametrize("name", SOURCES)
def test_three_epochs(name):
    operations = [RandomFlip(), RandomCrop(1)] if name == "arrays" else ()
    dataset, (counted, expected) = make(name, operations), reference(name, operations)
    first = None
    for epoch in range(3):
        assert_same(batches(dataset), batches(expected))
        assert int(dataset.epoch) == int(counted.epoch) == epoch + 1
        first = first or series(dataset)
        assert series(dataset) == first
    assert len(first) == (name not in ("unknown length", "random numbers"))


@pytest.mark.parametrize(
    "arguments",
    [
        {"epoch": 3, "batch": 2},
        {"shard": (1, 3)},
        {"drop_remainder": True, "with_keys": True},
        {"training": False},
        {"shard": (22, 24), "training": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["arrays", "stream"])
def test_places_and_shards(name, arguments):
    if name == "stream" and "with_keys" in arguments:
        arguments = {**arguments, "shard": (0, 2)}
    dataset, (counted, expected) = make(name, **arguments), reference(name, **arguments)
    for _ in range(3):
        assert_same(batches(dataset), batches(expected))
        assert int(dataset.epoch) == int(counted.epoch)


@pytest.mark.parametrize("name", ["arrays", "stream"])
def test_pass_that_is_left_early_and_passes_at_once(name):
    dataset, (counted, expected) = make(name), reference(name)

    def same(one, other):
        assert_same(batches([next(one)]), batches([next(other)]))

    def read(dataset, counter):
        for _ in zip(range(2), dataset):
            pass
        yield from batches(dataset)
        one, other = iter(dataset), iter(dataset)
        for _ in range(5):
            yield from batches([next(one), next(other)])
        assert int(counter) == 2
        # Begun before another one, and read after it.
        third = iter(dataset)
        yield from batches(dataset)
        yield from batches(third)
        yield from batches(dataset.take(2))
        # The epoch is the one that holds at the first batch.
        late = iter(dataset)
        counter.assign(7)
        yield from batches(late)
        counter.assign(1)
        yield from batches(dataset)

    assert_same(list(read(dataset, dataset.epoch)), list(read(expected, counted.epoch)))
    assert int(dataset.epoch) == int(counted.epoch) == 2


def test_two_pipelines_with_one_counter():
    def read(plain):
        counter = tf.Variable(0, dtype=tf.int64)
        both = [make(epoch=counter, shard=(index, 2)) for index in range(2)]
        both = [one.with_options(tf.data.Options()) for one in both] if plain else both
        return [batch for _ in range(2) for one in both for batch in batches(one)]

    assert_same(read(False), read(True))


def test_fit_with_validation_and_steps():
    def run(plain):
        seen = []

        class Recorder(keras.layers.Layer):
            def call(self, inputs):
                tf.py_function(lambda x: seen.append(x.numpy()), [inputs], [])
                return inputs

        model = keras.Sequential([keras.Input((4, 4, 1)), Recorder(), keras.layers.Flatten(), keras.layers.Dense(1)])
        model.compile("sgd", "mse", run_eagerly=False, jit_compile=False)
        train, test = make(), make(training=False)
        counters = [train.epoch, test.epoch]
        if plain:
            train, test = (one.with_options(tf.data.Options()) for one in (train, test))
        model.fit(train, validation_data=test, epochs=2, verbose=0)
        # An epoch of three steps: passes that end within an epoch.
        model.fit(train, steps_per_epoch=3, epochs=1, verbose=0)
        model.fit(train, epochs=1, verbose=0)
        return seen, [int(counter) for counter in counters]

    ours, theirs = run(False), run(True)
    assert_same(ours[0], theirs[0])
    assert ours[1] == theirs[1] == [3, 2]


def test_epochs_of_fit_share_their_iterators():
    # At the end of an epoch, `fit` makes an iterator that it never reads, and makes another one before it lets go.
    model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(1)])
    model.compile("sgd", "mse", jit_compile=False)
    train, test = make(), make(training=False)
    seen = []
    spy = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: seen.append((series(train), series(test))))
    model.fit(train, validation_data=test, epochs=6, verbose=0, callbacks=[spy])
    assert len(seen[-1][0]) <= 2 and len(seen[-1][1]) <= 2
    assert seen[2] == seen[3] == seen[4] == seen[5]
    assert int(train.epoch) == int(test.epoch) == 6


@pytest.mark.parametrize("read_first", [0, 1])
def test_an_iterator_that_is_not_read(read_first):
    dataset, (counted, expected) = make(), reference()

    def read(dataset, counter):
        held = iter(dataset)
        for _ in range(3):
            # As `fit` does it: the new one is there before the old one goes.
            held = iter(dataset)
            yield from batches(dataset)
        both = [held, iter(dataset)]
        yield from batches(both[read_first])
        yield from batches(both[1 - read_first])
        counter.assign(2)
        del held, both
        yield from batches(dataset)

    assert_same(list(read(dataset, dataset.epoch)), list(read(expected, counted.epoch)))
    assert int(dataset.epoch) == int(counted.epoch) == 3 and len(series(dataset)) == 2


def test_mirrored_strategy_reads_the_same():
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], tf.distribute.ReductionToOneDevice())
    dataset, (counted, expected) = make(), reference()
    found = strategy.experimental_distribute_dataset(dataset)
    for _ in range(2):
        parts = [strategy.experimental_local_results(y) for _, y in found]
        assert_same([np.concatenate(part) for part in parts], [y for _, y in batches(expected)])
    assert int(dataset.epoch) == int(counted.epoch) == 2


def test_within_a_graph():
    dataset, (_, expected) = make(), reference()

    @tf.function
    def total():
        result = tf.constant(0, tf.int64)
        for _, y in dataset:
            result += tf.reduce_sum(y)
        return result

    assert int(total()) == sum(int(y.sum()) for _, y in batches(expected)) == Y.sum()
    assert int(total()) == Y.sum() and int(dataset.epoch) == 2


@pytest.mark.parametrize("example", [0, 11])
def test_after_an_error_a_pass_begins_anew(example):
    broken = []

    class Breaking(Sequence):
        def __getitem__(self, index):
            if index == example and broken:
                raise ValueError("No such example")
            return X[index], Y[index]

    dataset = pipeline(Breaking(), 5, shuffle=False)
    whole = batches(dataset)
    broken.append(True)
    iterator = iter(dataset)
    with pytest.raises(tf.errors.OpError, match="No such example"):
        list(iterator)
    with pytest.raises(tf.errors.InvalidArgumentError, match="failed before"):
        next(iterator)
    del iterator
    gc.collect()
    broken.clear()
    dataset.epoch.assign(0)
    assert_same(batches(dataset), whole)
    assert int(dataset.epoch) == 1
    # The iterator that failed isn't kept.
    assert len(series(dataset)) == 1


def test_no_batch_of_the_next_pass_is_made_before_it_is_asked_for(monkeypatch):
    # With TensorFlow's tuning, which tests are without: it is what puts a prefetch behind `repeat`.
    monkeypatch.setattr(tf.data.Dataset, "__iter__", tf.data.Dataset.__iter__.__globals__["_iterate"])
    reads = []

    class Counted(Sequence):
        def __getitem__(self, index):
            reads.append(index)
            return super().__getitem__(index)

    dataset = pipeline(Counted(), 8, [RandomFlip()], seed=0)
    opened = len(reads)
    for number in range(1, 3):
        assert sum(1 for _ in dataset) == 3
        # Long enough for what runs ahead.
        time.sleep(0.3)
        assert len(reads) == opened + number * NUM


def test_nothing_stays_of_a_pass_that_was_left_early():
    dataset = make()
    next(iter(dataset))
    (lost,) = map(weakref.ref, series(dataset))
    batches(dataset)
    gc.collect()
    assert lost() is None and len(series(dataset)) == 1


def test_nothing_stays_of_a_pipeline():
    dataset = make()
    for _ in range(2):
        batches(dataset)
    next(iter(dataset))
    references = [weakref.ref(one) for one in (dataset, *(each._pass for each in series(dataset)), dataset.epoch)]
    references += [weakref.ref(each) for each in series(dataset)]
    del dataset
    gc.collect()
    assert not any(reference() for reference in references)


DRAWS = {
    "uniform": lambda: tf.random.uniform((), 0, 9, tf.int32),
    "normal": lambda: tf.random.normal(()),
    "gamma": lambda: tf.random.gamma((), 2.0),
    "poisson": lambda: tf.random.poisson((), 2.0),
    "shuffle": lambda: tf.random.shuffle(tf.range(5)),
    "truncated normal": lambda: tf.random.truncated_normal(()),
    "categorical": lambda: tf.random.categorical([[0.0, 1.0]], 3),
    "box": lambda: tf.image.sample_distorted_bounding_box((9, 9, 3), [[[0.0, 0.0, 1.0, 1.0]]]).begin,
}


@pytest.mark.parametrize("kind", DRAWS)
def test_every_kind_of_draw_is_seen(kind):
    assert draws_numbers(stream().map(lambda x, y: (x, DRAWS[kind]())).batch(2))


def test_draws_numbers():
    assert not draws_numbers(stream().shuffle(3, seed=1).batch(2))
    assert draws_numbers(noisy().batch(2))
    assert draws_numbers(stream().interleave(lambda x, y: noisy()))
    assert draws_numbers(tf.data.Dataset.zip((stream(), tf.data.Dataset.random(seed=1))))
    # Hidden in a graph.
    assert draws_numbers(
        tf.data.experimental.from_variant(tf.data.experimental.to_variant(stream()), stream().element_spec)
    )
