"""The bundled digits as a TFDS data set. Imported only when the digits are asked for."""

import numpy as np

from kregkit._core.folds import by_class
from kregkit._core.optional import import_optional

tfds = import_optional("tensorflow_datasets", "kregkit.data")

_NUM_TEST = 360


def _test_indices(labels):
    """Returns the sorted indices of the test set: every fifth example, or almost, of those ordered by class.

    `_core.folds.deal` isn't used, since the set must stay the same for good: RandomState's streams are frozen, those
    of `default_rng` may change with NumPy.
    """
    order = by_class(np.random.RandomState(0).permutation(len(labels)), labels)
    quota = np.arange(len(labels) + 1) * _NUM_TEST // len(labels)
    return np.sort(order[np.diff(quota) == 1])


class Digits(tfds.core.GeneratorBasedBuilder):  # type: ignore[name-defined]
    """Scikit-learn's bundled handwritten digits: 1,797 images of 8x8 pixels, 1,437 to train on and 360 to test."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Pixels scaled to 0..255; stratified split of 1437 and 360."}  # noqa: RUF012

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            description=(
                "The 1,797 test images of the UCI set Optical Recognition of Handwritten Digits, as bundled with "
                "scikit-learn. Each pixel counts the black pixels of a 4x4 block, 0 to 16, stored as "
                "round(count * 255 / 16)."
            ),
            homepage="https://archive.ics.uci.edu/dataset/80",
            citation=(
                "@misc{alpaydin1998optical, author={Alpaydin, Ethem and Kaynak, Cenk}, year={1998}, "
                "title={Optical Recognition of Handwritten Digits}, publisher={UCI Machine Learning Repository}, "
                "doi={10.24432/C50P49}}"
            ),
            features=tfds.features.FeaturesDict({
                "image": tfds.features.Image(shape=(8, 8, 1)),
                "label": tfds.features.ClassLabel(num_classes=10),
            }),
            supervised_keys=("image", "label"),
        )  # fmt: skip

    def _split_generators(self, download_manager):
        datasets = import_optional("sklearn.datasets", "kregkit.data.digits, when it first prepares the data,")
        bunch = datasets.load_digits()
        images = np.round(bunch.images * (255 / 16)).astype("uint8")[..., None]
        test = _test_indices(bunch.target)
        train = np.setdiff1d(np.arange(len(images)), test)
        return {
            name: self._generate_examples(indices, images, bunch.target)
            for name, indices in (("train", train), ("test", test))
        }

    def _generate_examples(self, indices, images, labels):
        for index in indices:
            yield int(index), {"image": images[index], "label": int(labels[index])}
