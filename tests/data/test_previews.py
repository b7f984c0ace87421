"""A preview shows the batch that it took, and takes nothing else."""

import matplotlib
import numpy as np
import pytest
import tensorflow as tf

from kregkit.data import Boxes, MixUp, Points, RandomFlip, Standardize, pipeline, preview

matplotlib.use("Agg")

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 16, 20, 3), "uint8")
BOXES = np.tile(np.float32([[2, 3, 8, 12], [-1, -1, -1, -1]]), (6, 1, 1))
ELEMENT = {
    "image": IMAGES,
    "mask": np.tile(np.eye(16, 20, dtype="uint8"), (6, 1, 1)),
    "bbox": BOXES / np.float32([20, 16, 20, 16]) - (BOXES < 0),
    "class": np.tile([[1, -1]], (6, 1)),
    "joints": np.tile(np.float32([[4.5, 5.5], [30, 2]]), (6, 1, 1)),
    "label": np.arange(6) % 2,
}


@pytest.fixture(scope="module")
def dataset():
    return pipeline(
        ELEMENT, 6, [RandomFlip(probability=1.0)], masks="mask", shuffle=False,
        boxes=Boxes("bbox", labels="class", format="rel_xyxy"), points=Points("joints"),
    )  # fmt: skip


def test_everything_is_shown_where_it_moved(dataset):
    sheet = preview(dataset, num=4, class_names=["cat", "dog"])
    np.testing.assert_allclose(sheet.images, IMAGES[:4, :, ::-1] / 255, atol=1e-6)
    assert sheet.titles == ["cat", "dog", "cat", "dog"] and sheet.box_titles == [["dog"]] * 4
    for box, point, mask in zip(sheet.boxes, sheet.points, sheet.masks):
        np.testing.assert_allclose(box, [[12, 3, 18, 12]], atol=1e-4)
        np.testing.assert_allclose(point, [[15.5, 5.5]], atol=1e-4)
        np.testing.assert_array_equal(mask, ELEMENT["mask"][0, :, ::-1])
    # A pass of one batch would have counted as an epoch.
    assert int(dataset.epoch) == 0
    assert "4 images 16x20x3" in repr(sheet) and "4 boxes" in repr(sheet) and "masks" in repr(sheet)


def test_drawing(dataset, tmp_path):
    sheet = preview(dataset, num=3)
    figure = sheet.plot()
    assert len(figure.axes) == 3 and figure.axes[0].get_title() == "0"
    assert figure.axes[0].texts[0].get_text() == "1"
    open_figures = matplotlib.pyplot.get_fignums()
    assert sheet._repr_html_().startswith('<img alt="a batch" src="data:image/png;base64,')
    sheet.save(str(tmp_path / "sheet.png"))
    assert tf.io.decode_png((tmp_path / "sheet.png").read_bytes()).shape[0] > 100
    assert matplotlib.pyplot.get_fignums() == open_figures


def test_labels_that_are_mixed_and_images_without_range():
    arrays = (IMAGES, np.arange(6) % 3)
    sheet = preview(pipeline(arrays, 6, [MixUp(0.9, num_classes=3)], with_keys=True), class_names=["a", "b", "c"])
    assert any(" + " in title for title in sheet.titles)
    assert all(
        90 < sum(float(part.split("%")[0]) for part in title.split(" + ")) < 110
        for title in sheet.titles
        if "+" in title
    )
    sheet = preview(pipeline(arrays, 6, [Standardize().fit(IMAGES)], training=False))
    assert sheet.images.min() == 0 and sheet.images.max() == 1 and 0.3 < sheet.images.mean() < 0.7
    assert preview(pipeline(IMAGES, 6)).titles is None


@pytest.mark.parametrize(
    ("labels", "title"),
    [
        ([0.25, 0.0, 0.75], "75% c + 25% a"),
        ([0.0, 1.0, 0.0], "b"),
        ([1.0, 0.0, 1.0], "a + c"),
        ([0.0, 0.0, 0.0], ""),
        ([-3.0, 5.0, 0.125], "-3, 5, 0.125"),
        ([7, 2, 1, 4], "7, 2, 1, ..."),
        ([2], "c"),
        (1, "b"),
        (2.5, "2.5"),
        ("dürr", "dürr"),
        (7, "7"),
    ],
)
def test_titles(labels, title):
    sheet = preview(pipeline((IMAGES[:1], np.array([labels])), 1), class_names=["a", "b", "c"])
    assert sheet.titles == [title]
    assert repr(sheet).startswith("Preview(1 image 16x20x3;")


def test_errors(dataset):
    with pytest.raises(ValueError, match=r"`dataset` must be what kregkit\.data\.pipeline returns.*Received: "):
        preview(dataset.take(1))
    with pytest.raises(ValueError, match="`dataset` must be.*without images"):
        preview(pipeline(np.zeros((4, 5)), 2))
    with pytest.raises(ValueError, match="`num` must be.*Received: num=0"):
        preview(dataset, 0)
