import numpy as np

from kregkit.data import FiveCrop, TenCrop

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 9, 11, 3), dtype="uint8")


def test_ten_crop_by_hand():
    views = np.asarray(TenCrop((6, 7))(IMAGES))
    assert views.shape == (10, 2, 6, 7, 3) and views.dtype == np.uint8
    x = IMAGES
    five = [x[:, :6, :7], x[:, :6, 4:], x[:, 3:, :7], x[:, 3:, 4:], x[:, 1:7, 2:9]]
    np.testing.assert_array_equal(views, five + [view[:, :, ::-1] for view in five])
    np.testing.assert_array_equal(FiveCrop((6, 7))(IMAGES), five)
