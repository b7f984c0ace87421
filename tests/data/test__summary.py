"""What a notebook shows of a pipeline."""

import re

import numpy as np
import tensorflow as tf

from kregkit.data import RandomCrop, RandomFlip, pipeline

IMAGES = np.zeros((10, 8, 6, 1), "uint8")


def cells(dataset):
    shown = dataset._repr_html_()
    return [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row) for row in re.findall(r"<tr>(.*?)</tr>", shown)]


def test_a_pipeline_shows_what_it_reads_does_and_gives():
    dataset = pipeline({"image": IMAGES, "label": np.arange(10)}, 4, [RandomFlip(), RandomCrop(0, 5)], seed=3)
    expected = [
        ["pipeline", ""],
        ["reads", "10 examples of arrays"],
        ["does", "RandomFlip()"],
        ["", "RandomCrop(padding=0, size=(5, 5))"],
        ["batches", "3 of 4"],
        ["gives", "image: float32, ? x 5 x 5 x 1"],
        ["", "label: int64, ?"],
        ["seed, epoch", "3, 0"],
    ]
    assert cells(dataset) == expected
    list(dataset)
    assert cells(dataset)[-1] == ["seed, epoch", "3, 1"]


def test_a_stream_without_augmentation():
    stream = tf.data.Dataset.from_generator(lambda: iter(IMAGES), output_signature=tf.TensorSpec((8, 6, 1), "uint8"))
    rows = cells(pipeline(stream, 4, [RandomFlip()], training=False, drop_remainder=True))
    assert ["reads", "examples of a data set"] in rows and ["does", "nothing"] in rows
    assert ["batches", "of 4, their number is not known"] in rows and rows[4][1].endswith("4 x 8 x 6 x 1")
