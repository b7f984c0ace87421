import collections

import keras
import numpy as np
import pytest
import tensorflow as tf

from kregkit.data import (
    Augment,
    ColorJitter,
    CutMix,
    MixUp,
    RandomCrop,
    RandomFlip,
    RandomResizedCrop,
    RandomRotation,
    make_keys,
    pipeline,
)

pytestmark = pytest.mark.one_in(3)

RNG = np.random.default_rng(0)
NUM = 53
X = RNG.integers(0, 256, (NUM, 8, 8, 3), dtype="uint8")
Y = np.arange(NUM)
OPERATIONS = [RandomFlip(), RandomCrop(1), RandomRotation(10), ColorJitter(0.3, 0.3, 0.3)]
# Enough to tell one draw from another, and traced in half the time.
FEW = [RandomFlip(), RandomCrop(1)]


def batches(dataset):
    return [keras.tree.map_structure(lambda value: value.numpy(), batch) for batch in dataset]


def assert_same(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other):
        for u, v in zip(keras.tree.flatten(a), keras.tree.flatten(b), strict=True):
            np.testing.assert_array_equal(u, v)


def stream():
    return tf.data.Dataset.from_tensor_slices((X, Y))


def endless_length():
    """The same stream, whose length TensorFlow can't tell."""
    return stream().filter(lambda x, y: True)


class Sequence:
    def __len__(self):
        return NUM

    def __getitem__(self, index):
        return X[index], Y[index]


SOURCES = {"arrays": lambda: (X, Y), "stream": stream, "unknown length": endless_length, "sequence": Sequence}


def by_name(function):
    return pytest.mark.parametrize("name", SOURCES)(function)


@by_name
def test_every_example_once_in_a_new_order_and_new_looks_each_epoch(name):
    dataset = pipeline(SOURCES[name](), 10, OPERATIONS, seed=3)
    first, second = batches(dataset), batches(dataset)
    orders = [np.concatenate([y for _, y in epoch]) for epoch in (first, second)]
    for order in orders:
        assert sorted(order) == list(range(NUM))
    assert (orders[0] != orders[1]).mean() > 0.5 and (orders[0] != Y).mean() > 0.5
    looks = [dict(zip(order, np.concatenate([x for x, _ in epoch]))) for order, epoch in zip(orders, (first, second))]
    assert np.mean([np.abs(looks[0][i] - looks[1][i]).max() > 0.02 for i in range(NUM)]) > 0.9
    assert int(dataset.epoch) == 2
    dataset.epoch.assign(0)
    assert_same(batches(dataset), first)


@by_name
def test_same_bits_at_any_parallelism(name):
    runs = [
        batches(pipeline(SOURCES[name](), 10, FEW, num_parallel_calls=calls, prefetch=prefetch))
        for calls, prefetch in ((1, 0), (8, 4))
    ]
    assert_same(*runs)


@by_name
def test_resume_at_any_epoch_and_batch(name):
    whole = pipeline(SOURCES[name](), 10, FEW, seed=1)
    epochs = [batches(whole) for _ in range(3)]
    resumed = pipeline(SOURCES[name](), 10, FEW, seed=1, epoch=1, batch=4)
    assert_same(batches(resumed), epochs[1][4:])
    assert_same(batches(resumed), epochs[2])
    assert int(resumed.epoch) == 3


@by_name
def test_known_length(name):
    for drop, expected in ((False, 6), (True, 5)):
        dataset = pipeline(SOURCES[name](), 10, drop_remainder=drop)
        assert len(batches(dataset)) == expected
        if name != "unknown length":
            assert len(dataset) == expected
    assert len(pipeline((X, Y), 10, batch=2)) == 6


# How many steps one execution has doesn't depend on the source.
@pytest.mark.parametrize(("name", "steps_per_execution"), [*((name, 1) for name in SOURCES), ("arrays", 4)])
def test_fit_advances_the_epoch(name, steps_per_execution):
    dataset = pipeline(SOURCES[name](), 10, FEW, drop_remainder=True)
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(1)])
    model.compile("sgd", "mse", steps_per_execution=steps_per_execution)
    model.fit(dataset, epochs=3, verbose=0)
    assert int(dataset.epoch) == 3
    # Looking doesn't count, repeating does, and so does an epoch cut by steps_per_epoch.
    next(iter(dataset))
    assert int(dataset.epoch) == 3
    if steps_per_execution == 1:
        model.fit(dataset.repeat(), epochs=2, steps_per_epoch=5, verbose=0)
        # Where the length is unknown, only asking for one batch more tells that a pass has ended; `fit` needn't ask.
        assert int(dataset.epoch) in ((4, 5) if name == "unknown length" else (5,))


def test_fit_sees_what_iterating_gives():
    seen = []

    class Recorder(keras.layers.Layer):
        def call(self, inputs):
            tf.py_function(lambda x: seen.append(x.numpy()), [inputs], [])
            return inputs

    model = keras.Sequential([keras.Input((8, 8, 3)), Recorder(), keras.layers.Flatten(), keras.layers.Dense(1)])
    model.compile("sgd", "mse", jit_compile=False)
    model.fit(pipeline((X, Y), 10, FEW), epochs=2, verbose=0)
    dataset = pipeline((X, Y), 10, FEW)
    expected = [x for _ in range(2) for x, _ in batches(dataset)]
    assert_same(seen, expected)


def test_fit_under_a_strategy_gets_every_example():
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], tf.distribute.ReductionToOneDevice())
    dataset = pipeline((X, Y), 10, FEW)
    with strategy.scope():
        model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
    model.fit(dataset, epochs=2, verbose=0)
    assert int(dataset.epoch) == 2


# How many shards there are doesn't depend on the source.
@pytest.mark.parametrize(("name", "num_shards"), [*((name, 3) for name in SOURCES), ("arrays", 2)])
def test_shards_make_up_the_epoch(name, num_shards):
    def looks(**arguments):
        dataset = pipeline(SOURCES[name](), 7, FEW, epoch=2, **arguments)
        return [(y, x) for xs, ys in batches(dataset) for x, y in zip(xs, ys)]

    whole = dict(looks())
    context = [tf.distribute.InputContext(num_shards, shard, num_shards) for shard in range(num_shards)]
    parts = [looks(shard=one) for one in context]
    assert sorted(y for part in parts for y, _ in part) == list(range(NUM))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    for part in parts:
        for y, x in part:
            np.testing.assert_array_equal(x, whole[y])
    if num_shards == 2:
        assert len(looks(shard=(0, num_shards))) == len(parts[0])


@pytest.mark.parametrize("drop", [False, True])
@by_name
def test_epochs_of_shards_without_a_batch_advance_too(name, drop):
    # Two examples and three shards; where last batches are dropped, none of the first two has a whole one either.
    source = {
        "arrays": lambda: (X[:2], Y[:2]),
        "stream": lambda: stream().take(2),
        "unknown length": lambda: endless_length().take(2),
        "sequence": lambda: collections.deque(zip(X[:2], Y[:2])),
    }[name]
    found = []
    for shard in range(3):
        dataset = pipeline(source(), 2, shard=(shard, 3), drop_remainder=drop)
        for _ in range(2):
            found += [y for _, y in batches(dataset)]
        assert int(dataset.epoch) == 2
    assert sorted(np.concatenate(found)) == [0, 0, 1, 1] if not drop else not found
    if name != "unknown length":
        assert len(dataset) == 0


@by_name
def test_shards_that_drop_their_remainder(name):
    parts = [pipeline(SOURCES[name](), 7, shard=(shard, 3), drop_remainder=True) for shard in range(3)]
    seen = [np.concatenate([y for _, y in batches(part)]) for part in parts]
    assert [len(part) for part in seen] == [14, 14, 14] and len(set(np.concatenate(seen))) == 42
    assert [int(part.epoch) for part in parts] == [1, 1, 1]


@pytest.mark.parametrize("make", [MixUp, CutMix])
def test_mixing_with_partners_of_the_epoch_ignores_batches_and_shards(make):
    operations = [RandomFlip(), RandomCrop(1), make(1.0, num_classes=NUM)]

    def looks(batch_size, **arguments):
        dataset = pipeline((X, Y), batch_size, operations, with_keys=True, **arguments)
        return {int(k): (x, y) for (xs, ys), ks in batches(dataset) for x, y, k in zip(xs, ys, ks)}

    whole = looks(10)
    assert len(whole) == NUM
    others = looks(7, shard=(0, 2)) | looks(7, shard=(1, 2))
    assert others.keys() == whole.keys()
    for key, (x, y) in whole.items():
        np.testing.assert_allclose(others[key][0], x, atol=1e-6)
        np.testing.assert_allclose(others[key][1], y, atol=1e-6)
    # Images and labels are mixed with the same partner: marked images show their labels.
    marked = np.broadcast_to(np.arange(NUM, dtype="uint8")[:, None, None, None], (NUM, 8, 8, 1))
    for xs, ys in batches(pipeline((np.ascontiguousarray(marked), Y), 10, [make(1.0, num_classes=NUM)])):
        np.testing.assert_allclose(xs.mean((1, 2, 3)) * 255, ys @ np.arange(NUM), atol=1e-3)


def test_partners_of_the_epoch_from_any_source_with_random_access():
    operations = [RandomFlip(), RandomCrop(1), MixUp(1.0, num_classes=NUM)]
    looks = {}
    for name, batch_size in (("arrays", 10), ("sequence", 10), ("sequence", 7)):
        (looks[name, batch_size],) = [
            {int(k): (x, y) for (xs, ys), ks in batches(dataset) for x, y, k in zip(xs, ys, ks)}
            for dataset in [pipeline(SOURCES[name](), batch_size, operations, with_keys=True)]
        ]
    for key, (x, y) in looks["arrays", 10].items():
        for name in (("sequence", 10), ("sequence", 7)):
            np.testing.assert_allclose(looks[name][key][0], x, atol=1e-6)
            np.testing.assert_allclose(looks[name][key][1], y, atol=1e-6)


@pytest.mark.slow
def test_partners_are_uniform():
    from scipy import stats

    images, labels = np.zeros((5, 2, 2, 1), "uint8"), np.eye(5, dtype="float32") + 2 * np.eye(5, dtype="float32")
    counts = np.zeros((5, 5))
    dataset = pipeline((images, labels), 5, [MixUp(4.0)], shuffle=False)
    for _ in range(300):
        ((_, mixed),) = batches(dataset)
        # What is left beside the own label is the partner's; none is left where an example is its own.
        others = mixed - np.diag(np.diag(mixed))
        counts[np.arange(5), np.where(others.any(1), others.argmax(1), np.arange(5))] += 1
    assert stats.chisquare(counts.ravel(), ddof=4).pvalue > 1e-6


@pytest.mark.parametrize("name", ["arrays", "sequence", "stream"])
def test_labels_of_training_and_testing_look_alike(name):
    operations = [RandomFlip(), MixUp(num_classes=NUM)]
    train, test = (pipeline(SOURCES[name](), 10, operations, training=training) for training in (True, False))
    assert train.element_spec == test.element_spec
    np.testing.assert_array_equal(np.concatenate([y for _, y in batches(test)]), np.eye(NUM, dtype="float32"))
    if name != "arrays":
        return
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(NUM)])
    model.compile("sgd", keras.losses.CategoricalCrossentropy(from_logits=True))
    model.fit(train, validation_data=test, verbose=0)


@by_name
def test_mixing_from_any_source(name):
    dataset = pipeline(SOURCES[name](), 10, [MixUp(num_classes=NUM, partners="batch")])
    for _ in range(2):
        for x, y in batches(dataset):
            assert y.shape == (len(x), NUM)


def test_batch_is_replayable_by_its_keys():
    dataset = pipeline((X, Y), 27, OPERATIONS, seed=4, epoch=2, with_keys=True)
    for (x, y), keys in batches(dataset):
        np.testing.assert_array_equal(keys, make_keys(4, 2, y))
        np.testing.assert_allclose(Augment(OPERATIONS)(X[y], keys), x, atol=1e-6)


def test_global_seed_changes_nothing():
    runs = []
    for seed in (0, 1):
        keras.utils.set_random_seed(seed)
        runs.append(batches(pipeline(stream(), 10, FEW)))
    assert_same(*runs)


def test_test_time_is_in_order_and_repeats():
    dataset = pipeline((X, Y), 10, OPERATIONS, training=False)
    first = batches(dataset)
    np.testing.assert_array_equal(np.concatenate([y for _, y in first]), Y)
    np.testing.assert_allclose(np.concatenate([x for x, _ in first]) * 255, X, rtol=1e-6)
    assert_same(first, batches(dataset))


def test_structures_pass_untouched():
    weights = RNG.random(NUM).astype("float64")
    ((_, y, w),) = batches(pipeline((X, Y.astype("int16"), weights), NUM, OPERATIONS))
    assert y.dtype == np.int16 and w.dtype == np.float64
    np.testing.assert_array_equal(w, weights[y])
    (element,) = batches(pipeline({"image": X, "label": Y, "name": Y.astype(str)}, NUM, OPERATIONS))
    assert element["image"].dtype == np.float32
    np.testing.assert_array_equal(element["name"].astype(int), element["label"])
    (((inputs), y),) = batches(pipeline(({"image": X, "extra": Y}, Y), NUM, OPERATIONS))
    np.testing.assert_array_equal(inputs["extra"], y)
    (features,) = batches(pipeline(weights, NUM, shuffle=False))
    np.testing.assert_array_equal(features, weights)
    (features, y) = batches(pipeline((RNG.random((NUM, 5)), Y), NUM))[0]
    assert features.dtype == np.float64


LABELS = {
    "bytes": np.array([b"%d" % i for i in range(NUM)], object),
    "strings": np.arange(NUM).astype(str),
    "booleans": np.arange(NUM) % 2 == 0,
    "small integers": (np.arange(NUM) - 20).astype("int8"),
    "large integers": np.arange(NUM) + np.int64(2**60),
    "half precision": np.arange(NUM).astype("float16"),
    "complex": np.arange(NUM) * 1j,
    "maps": np.arange(NUM * 6).reshape(NUM, 2, 3, 1).astype("float64"),
}


@pytest.mark.parametrize("name", ["arrays", "stream", "cached stream", "sequence"])
def test_labels_of_any_kind_pass_untouched(name):
    arrays = {"image": X, "place": Y, **LABELS}
    source = {
        "arrays": lambda: arrays,
        "stream": lambda: tf.data.Dataset.from_tensor_slices(arrays),
        "cached stream": lambda: tf.data.Dataset.from_tensor_slices(arrays),
        "sequence": lambda: collections.deque({key: arrays[key][i] for key in arrays} for i in range(NUM)),
    }[name]()
    for batch in pipeline(source, 20, [RandomFlip(), RandomCrop(1)], cache=name == "cached stream"):
        for kind, labels in LABELS.items():
            expected = tf.convert_to_tensor(labels)
            assert batch[kind].dtype == expected.dtype
            np.testing.assert_array_equal(batch[kind], tf.gather(expected, batch["place"]))


def test_stream_kept_in_a_file_is_augmented_anew(tmp_path):
    reads = []

    def read(i):
        reads.append(int(i))
        return X[int(i)], Y[int(i)]

    source = tf.data.Dataset.range(NUM).map(lambda i: tf.numpy_function(read, [i], [tf.uint8, tf.int64]))
    source = source.map(lambda x, y: (tf.ensure_shape(x, (8, 8, 3)), tf.ensure_shape(y, ())))
    cached = pipeline(source, 10, FEW, cache=tmp_path / "kept", shuffle=False)
    plain = pipeline((X, Y), 10, FEW, shuffle=False)
    epochs = [batches(cached) for _ in range(2)]
    assert sorted(reads) == list(range(NUM))
    for epoch in epochs:
        for (x, y), (expected, label) in zip(epoch, batches(plain), strict=True):
            np.testing.assert_allclose(x, expected, atol=1e-6)
            np.testing.assert_array_equal(y, label)
    assert np.abs(epochs[0][0][0] - epochs[1][0][0]).max() > 0.02


@by_name
def test_images_alone_look_as_they_do_with_labels(name):
    alone = {
        "arrays": lambda: X,
        "stream": lambda: stream().map(lambda x, y: x),
        "unknown length": lambda: endless_length().map(lambda x, y: x),
        "sequence": lambda: collections.deque(X),
    }[name]()
    assert_same(batches(pipeline(alone, 10, FEW)), [x for x, _ in batches(pipeline(SOURCES[name](), 10, FEW))])
    for x in pipeline(alone, 10, training=False):
        assert x.dtype == tf.float32 and float(tf.reduce_max(x)) <= 1


def test_masks_move_with_their_images():
    mask = (X[..., 0] > 127).astype("uint8")
    images = np.repeat(mask[..., None] * np.uint8(255), 3, -1)
    operations = [RandomFlip("both"), RandomCrop(2)]
    (element,) = batches(pipeline({"image": images, "mask": mask}, NUM, operations, masks="mask"))
    np.testing.assert_array_equal(element["image"][..., 0] > 0.5, element["mask"] == 1)
    ((x, moved),) = batches(pipeline((images, mask), NUM, operations, masks=1))
    np.testing.assert_array_equal(x[..., 0] > 0.5, moved == 1)
    with pytest.raises(ValueError, match="can't mix masks.*Received: masks='mask'"):
        pipeline({"image": images, "mask": mask, "label": Y}, 2, [MixUp(num_classes=NUM)], masks="mask")


def test_images_of_different_sizes():
    class Ragged(Sequence):
        def __getitem__(self, index):
            return X[index % 5][: 5 + index % 3], Y[index]

    whole = batches(pipeline(Ragged(), 10, [RandomResizedCrop(6), ColorJitter()]))
    assert {x.shape[1:] for x, _ in whole} == {(6, 6, 3)}
    assert sorted(np.concatenate([y for _, y in whole])) == list(range(NUM))


def test_stream_buffer_and_whole_permutation():
    order = np.concatenate([y for _, y in batches(pipeline(stream(), 10, buffer_size=4))])
    # What a buffer of four lets through early can't come from further than four places ahead.
    assert (order - np.arange(NUM) <= 4).all() and sorted(order) == list(range(NUM))
    whole = np.concatenate([y for _, y in batches(pipeline(stream(), 10, cache=True))])
    np.testing.assert_array_equal(whole, np.concatenate([y for _, y in batches(pipeline((X, Y), 10))]))


@pytest.mark.slow
def test_full_shuffle_is_uniform():
    from scipy import stats

    dataset = pipeline(np.arange(10), 10)
    first = [batches(dataset)[0] for _ in range(300)]
    counts = np.zeros((10, 10))
    for order in first:
        counts[np.arange(10), order] += 1
    assert stats.chisquare(counts.ravel(), ddof=19).pvalue > 1e-6


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"batch_size": 0}, "`batch_size` must be"),
        ({"seed": 1.5}, "`seed` must be"),
        ({"seed": 2**63}, "`seed` must be"),
        ({"epoch": -1}, "`epoch` must be"),
        ({"epoch": tf.Variable(1.0)}, "`epoch` must be"),
        ({"batch": 6}, "`batch` must be less"),
        ({"shuffle": "yes"}, "`shuffle` must be"),
        ({"shard": (2, 2)}, "`shard` must be"),
        ({"shard": 3}, "`shard` must be"),
        ({"cache": 3}, "`cache` must be"),
        ({"buffer_size": 0}, "`buffer_size` must be"),
        ({"masks": "mask"}, "`masks` must be a key"),
        ({"operations": [3]}, "`operations` must be"),
        ({"source": np.zeros((5, 4)), "operations": [RandomFlip()]}, "`operations` need images"),
        ({"operations": [MixUp()]}, "need `num_classes`"),
    ],
)
def test_bad_arguments(arguments, text):
    with pytest.raises(ValueError, match=rf"{text}[\s\S]*Received: "):
        pipeline(**{"source": (X, Y), "batch_size": 10, **arguments})


FLOATS = X / np.float32(255)
OUT_OF_RANGE = {
    "bytes": FLOATS * 255,
    "signed": FLOATS * 2 - 1,
    "nan": np.where(FLOATS.max() == FLOATS, np.nan, FLOATS),
}


@pytest.mark.parametrize("kind", OUT_OF_RANGE)
@pytest.mark.parametrize("name", ["arrays", "stream", "sequence"])
def test_float_images_outside_the_range_are_an_error_at_the_first_batch(name, kind):
    images = OUT_OF_RANGE[kind].astype("float16" if kind == "signed" else "float32")[:16]
    make = {
        "arrays": lambda: (images, Y[:16]),
        "stream": lambda: tf.data.Dataset.from_tensor_slices((images, Y[:16])),
        "sequence": lambda: collections.deque(zip(images, Y)),
    }[name]
    operations = [RandomFlip()] if kind == "bytes" else []
    text = r"Example \d+ of the source must lie in value_range=\(0, 1\).*Received: "
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match=text):
        next(iter(pipeline(make(), 16, operations, training=kind != "nan")))
    if kind != "nan":
        value_range = {"bytes": (0.0, 255.0), "signed": (-1.0, 1.0)}[kind]
        assert next(iter(pipeline(make(), 16, operations, value_range=value_range)))[0].shape == (16, 8, 8, 3)
    assert next(iter(pipeline(make(), 16, image=None)))[0].dtype == images.dtype


def test_a_later_batch_outside_the_range_is_an_error_too():
    images = FLOATS.copy()
    images[50] *= 255
    epoch = iter(pipeline(tf.data.Dataset.from_tensor_slices((images, Y)), 10, shuffle=False))
    assert len([next(epoch) for _ in range(5)]) == 5
    with pytest.raises(tf.errors.InvalidArgumentError, match="Example 50 of the source must lie in value_range"):
        next(epoch)
    # Cubic interpolation goes a little beyond; uint8 has no other range.
    for good in (FLOATS * 1.1 - 0.05, X):
        next(iter(pipeline((good, Y), 10)))


@pytest.mark.parametrize(("make", "training"), [(MixUp, True), (MixUp, False), (CutMix, True)])
def test_labels_that_cannot_be_mixed_are_an_error(make, training):
    def run(labels, stream=False, **arguments):
        source = (X[:8], np.asarray(labels))
        source = tf.data.Dataset.from_tensor_slices(source) if stream else source
        return next(iter(pipeline(source, 8, [make(num_classes=3)], training=training, **arguments)))[1].numpy()

    classes = np.arange(8) % 3
    for labels in (classes + 1, classes - 1, np.eye(3, dtype=int)[classes] * 2):
        with pytest.raises(ValueError, match="has a label that .* cannot mix"):
            run(labels)
    with pytest.raises(tf.errors.InvalidArgumentError, match="has a label that .* cannot mix"):
        run(classes + 1, stream=True)
    with pytest.raises(ValueError, match="NaN"):
        run(np.full((8, 3), np.nan))
    with pytest.raises(ValueError, match="cast class numbers.*float32"):
        run(classes.astype("float32"))
    with pytest.raises(ValueError, match="StringLookup.*string"):
        run(classes.astype(str))
    for labels in (classes > 0, (classes > 0)[:, None], classes.astype("uint16"), np.eye(3, dtype=bool)[classes]):
        np.testing.assert_allclose(run(labels).sum(1), 1, atol=1e-5)


def test_float_images_from_a_directory_of_keras(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(tf.io.encode_png(X[0]).numpy())
    dataset = keras.utils.image_dataset_from_directory(tmp_path, image_size=(8, 8), batch_size=2, verbose=False)
    with pytest.raises(ValueError, match=r"\.unbatch\(\)"):
        pipeline(dataset, 2)
    with pytest.raises(tf.errors.InvalidArgumentError, match="value_range"):
        next(iter(pipeline(dataset.unbatch(), 2)))
    images = next(iter(pipeline(dataset.unbatch(), 2, value_range=(0.0, 255.0))))[0]
    np.testing.assert_array_equal(images[0], X[0])


def unknown_length(num, keep=lambda x, y: True):
    """Returns a stream of unknown length."""
    arrays = (np.zeros((num, 4, 4, 1), "uint8"), np.arange(num))
    return tf.data.Dataset.from_tensor_slices(arrays).filter(keep)


def test_empty_pass_of_a_stream_is_an_error_that_names_the_source():
    empty = pipeline(unknown_length(6, lambda x, y: y > 9), 2)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"no batch: the source gave no.*source=<_FilterDataset"):
        list(empty)
    few = pipeline(unknown_length(3), 4, drop_remainder=True)
    with pytest.raises(tf.errors.InvalidArgumentError, match="with `drop_remainder` fewer than a batch"):
        list(few)
    whole = pipeline(unknown_length(3), 2)
    assert [len(list(whole)) for _ in range(2)] == [2, 2] and int(whole.epoch) == 2


def test_generator_that_is_used_up_is_said_in_the_second_epoch():
    examples = iter([(np.zeros((4, 4, 1), "uint8"), 1)] * 3)
    signature = (tf.TensorSpec((4, 4, 1), tf.uint8), tf.TensorSpec((), tf.int64))
    # What looks at the first example takes it out of the generator.
    dataset = pipeline(tf.data.Dataset.from_generator(lambda: examples, output_signature=signature), 2)
    assert len(list(dataset)) >= 1
    with pytest.raises(tf.errors.InvalidArgumentError, match="A generator that is used up"):
        list(dataset)


def test_resumed_pass_and_shard_may_be_empty():
    assert list(pipeline(unknown_length(4), 2, batch=2)) == []
    assert list(pipeline(unknown_length(1), 2, shard=(1, 2))) == []


def test_drop_remainder_of_too_few_examples_is_refused():
    arrays = (np.zeros((3, 4, 4, 1), "uint8"), np.arange(3))
    with pytest.raises(ValueError, match=r"leaves no batch: .* Received: batch_size=4, examples=3"):
        pipeline(arrays, 4, drop_remainder=True)
