import os

import numpy as np
import pytest
import tensorflow as tf

from kregkit.data import pipeline
from kregkit.data._cache import open_cache

VALUES = [np.arange(6, dtype="uint8").reshape(2, 3), np.array(b"name"), np.array(0.5)]
TYPES = [tf.uint8, tf.string, tf.float64]
SOURCE = {"kind": "test"}


class Numbers:
    """Examples `(first + i, i)`, which count how often they are read."""

    def __init__(self, first, num=8):
        self.first, self.num, self.reads = first, num, 0

    def __len__(self):
        return self.num

    def __getitem__(self, index):
        self.reads += 1
        return np.full((2, 2, 1), self.first + index, "uint8"), np.int64(index)


def stream(first, num=8, reads=None):
    def read(index):
        if reads is not None:
            reads.append(int(index))
        return np.int64(first + index)

    dataset = tf.data.Dataset.range(num).map(lambda i: tf.numpy_function(read, [i], tf.int64))
    return dataset.map(lambda value: tf.ensure_shape(value, ()))


def test_values_come_back_as_they_were(tmp_path):
    for where in (True, tmp_path / "cache"):
        cache = open_cache(where, SOURCE)
        assert cache.get("one", TYPES) is None
        cache.put("one", VALUES)
        for value, found in zip(VALUES, cache.get("one", TYPES), strict=True):
            assert np.asarray(found).dtype == value.dtype or value.dtype.kind == "S"
            np.testing.assert_array_equal(found, value)
    open_cache(False, SOURCE).put("one", VALUES)
    assert open_cache(False, SOURCE).get("one", TYPES) is None


def test_any_change_of_a_file_is_noticed(tmp_path):
    cache = open_cache(tmp_path, SOURCE)
    cache.put(3, VALUES)
    file = tmp_path / "3.tensors"
    whole = file.read_bytes()
    for position in range(0, len(whole), 7):
        changed = bytearray(whole)
        changed[position] ^= 4
        file.write_bytes(changed)
        with pytest.raises(ValueError, match=r"3\.tensors is damaged.*delete it, or the directory"):
            cache.get(3, TYPES)
    for content in (b"", whole[:-1], whole[:20], whole + b"\0"):
        file.write_bytes(content)
        with pytest.raises(ValueError, match="is damaged"):
            cache.get(3, TYPES)
    (tmp_path / "4.tensors").write_bytes(whole)
    with pytest.raises(ValueError, match=r"4\.tensors is damaged"):
        cache.get(4, TYPES)


def test_a_file_of_other_types_and_a_pipe_say_what_to_delete(tmp_path):
    cache = open_cache(tmp_path, SOURCE)
    cache.put(3, VALUES)
    for types in (TYPES[:2], TYPES[::-1]):
        with pytest.raises(ValueError, match=r"3\.tensors holds another example.*delete the directory"):
            cache.get(3, types)
    os.mkfifo(tmp_path / "4.tensors")
    with pytest.raises(ValueError, match=r"4\.tensors is no ordinary file: delete the directory"):
        cache.get(4, TYPES)


@pytest.mark.parametrize("text", ["", "[" * 5000, '{"num": true}', '{"num": -1}', '{"num": 1e3}', "[]", '{"num": NaN}'])
def test_damage_of_what_says_that_a_stream_is_whole(text, tmp_path):
    cache = open_cache(tmp_path, SOURCE)
    for content in (text, '{"num": 1' + 400 * "0" + "}"):
        (tmp_path / "complete.json").write_text(content)
        with pytest.raises(ValueError, match=r"complete\.json is damaged: delete the directory"):
            cache.num_complete()
    (tmp_path / "complete.json").unlink()
    cache.complete(30)
    content = (tmp_path / "complete.json").read_text()
    (tmp_path / "complete.json").write_text(content.replace("30", "10"))
    with pytest.raises(ValueError, match=r"complete\.json is damaged: delete the directory"):
        cache.num_complete()
    # As older versions wrote it.
    (tmp_path / "complete.json").write_text('{"num": 30}')
    assert cache.num_complete() == 30
    (tmp_path / "source.json").write_text(text)
    with pytest.raises(ValueError, match="Give each source a directory of its own, or delete this one") as error:
        open_cache(tmp_path, SOURCE)
    assert len(str(error.value)) < 1000


def test_directory_of_another_source_is_refused(tmp_path):
    open_cache(tmp_path / "a", SOURCE).put(0, VALUES)
    assert open_cache(tmp_path / "a", SOURCE).get(0, TYPES) is not None
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "0.tensors").write_bytes(b"")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "source.json").write_text("{")
    for name, source in (("a", {"kind": "other"}), ("old", SOURCE), ("broken", SOURCE)):
        with pytest.raises(ValueError, match=f"directory .*{name} caches .* another source.*delete.*Received: "):
            open_cache(tmp_path / name, source)


@pytest.mark.parametrize("make", [Numbers, stream])
def test_one_path_for_two_sources(tmp_path, make):
    arguments = {"training": False, "cache": tmp_path}
    first = list(pipeline(make(0), 4, **arguments))
    for other in (make(100), make(1), make(0, num=9)):
        with pytest.raises(ValueError, match="caches the examples of another source"):
            pipeline(other, 4, **arguments)
    with pytest.raises(ValueError, match="caches the examples of another source"):
        pipeline(tf.data.Dataset.from_tensor_slices(np.zeros((8, 3))), 4, **arguments)
    for one, again in zip(first, pipeline(make(0), 4, **arguments), strict=True):
        for a, b in zip(tf.nest.flatten(one), tf.nest.flatten(again)):
            np.testing.assert_array_equal(a, b)


def test_another_source_that_begins_alike(tmp_path):
    class Later(Numbers):
        def __getitem__(self, index):
            image, label = super().__getitem__(index)
            return image, label + (index == 7)

    list(pipeline(Numbers(0), 4, cache=tmp_path))
    with pytest.raises(ValueError, match="example 7 differs from what the source gives"):
        pipeline(Later(0), 4, cache=tmp_path)


def test_sequence_is_read_once(tmp_path):
    list(pipeline(Numbers(0), 4, cache=tmp_path))
    again = Numbers(0)
    list(pipeline(again, 4, cache=tmp_path))
    # What the first example is like, and the four that are compared.
    assert again.reads == 5


def test_stream_is_kept_once_it_was_read_to_its_end(tmp_path):
    reads = []
    dataset = pipeline(stream(0, reads=reads), 4, training=False, cache=tmp_path)
    next(iter(dataset.take(1)))
    reads.clear()
    for _ in range(3):
        np.testing.assert_array_equal(np.concatenate(list(dataset)), np.arange(8))
    assert reads == list(range(8)) and len(dataset) == 2
    reads.clear()
    assert len(list(pipeline(stream(0, reads=reads), 4, cache=tmp_path))) == 2
    # The first examples are compared with the source; how far it is read ahead depends on time.
    assert set(reads) < set(range(8))


def test_damaged_stream(tmp_path):
    list(pipeline(stream(0), 4, cache=tmp_path))
    file = tmp_path / "6.tensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\xff")
    with pytest.raises(tf.errors.OpError, match=r"6\.tensors is damaged.*delete"):
        list(pipeline(stream(0), 4, cache=tmp_path))
    file.unlink()
    with pytest.raises(tf.errors.OpError, match=r"6\.tensors is missing: delete"):
        list(pipeline(stream(0), 4, cache=tmp_path))
    (tmp_path / "complete.json").write_text("{}")
    with pytest.raises(tf.errors.OpError, match=r"complete\.json is damaged: delete"):
        list(pipeline(stream(0), 4, cache=tmp_path))
