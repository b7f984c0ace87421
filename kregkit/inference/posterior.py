"""A distribution over weights: what `marginalize` averages predictions over."""

import json
import pathlib
from typing import Any

import keras
import numpy as np

from kregkit._core.checks import check_integer, check_path
from kregkit._core.files import replacing

# Of more weights the covariance as one matrix would fill the memory.
_MOST_DENSE = 5000
# What a file holds, without and with rotations.
_NAMES = [
    {"about", "mean", "diagonal", "deviations"},
    {"about", "mean", "diagonal", "deviations", "left", "right"},
]


class WeightPosterior:
    """A Gaussian over some of a model's weights, of which `marginalize(model, weights=posterior)` draws.

    With `theta` these weights as one vector, in the order of `indices`, each row by row,

        theta = mean + R (sqrt(diagonal) * z + deviations' u),   z and u standard normal,

    whose covariance is `R (diag(diagonal) + deviations' deviations) R'`. `R` is 1, or the Kronecker product of the two
    orthogonal matrices `rotations`. `PolyakAveraging(posterior=True)` gathers one with `deviations` (SWAG), `laplace`
    computes one with `rotations`.

    Args:
        indices: List of integers, which of `model.weights` are drawn.
        shapes: List of their shapes.
        mean: Array `(size,)`.
        diagonal: Array `(size,)` of variances. Defaults to zeros.
        deviations: Array `(rank, size)`. Defaults to none.
        rotations: Pair of matrices `(a, a)` and `(b, b)` with `a * b = size`, or `None`.
        information: Dictionary of numbers and strings about its making, such as the prior's precision.

    Raises:
        ValueError: The sizes don't fit each other, or a number is missing, infinite or a negative variance.

    Example:

    >>> import numpy as np
    >>> posterior = WeightPosterior([0], [(2, 1)], np.array([1.0, 2.0]), deviations=np.array([[3.0, 0.0]]))
    >>> posterior.covariance().tolist(), posterior.draw(seed=0)[0].shape
    ([[9.0, 0.0], [0.0, 0.0]], (2, 1))

    References: [Maddox et al., 2019](https://arxiv.org/abs/1902.02476),
    [Daxberger et al., 2021](https://arxiv.org/abs/2106.14806)
    """

    def __init__(
        self,
        indices: list[int],
        shapes: list[tuple[int, ...]],
        mean: np.ndarray,
        diagonal: np.ndarray | None = None,
        deviations: np.ndarray | None = None,
        rotations: tuple[np.ndarray, np.ndarray] | None = None,
        information: dict | None = None,
    ) -> None:
        self.indices = [check_integer("indices", index, 0) for index in indices]
        self.shapes = [tuple(int(size) for size in shape) for shape in shapes]
        self.sizes = [int(np.prod(shape)) for shape in self.shapes]
        size = sum(self.sizes)
        self.mean = np.asarray(mean)
        self.diagonal = np.zeros(size, self.mean.dtype) if diagonal is None else np.asarray(diagonal)
        self.deviations = np.zeros((0, size), self.mean.dtype) if deviations is None else np.asarray(deviations)
        self.rotations = None if rotations is None else tuple(np.asarray(matrix) for matrix in rotations)
        self.information = dict(information or {})
        sides = None if self.rotations is None else [matrix.shape for matrix in self.rotations]
        fits = self.mean.shape == self.diagonal.shape == (size,) and self.deviations.shape[1:] == (size,)
        fits = fits and len(self.indices) == len(self.shapes) == len(set(self.indices)) > 0
        if sides is not None:
            (a, *_), (b, *_) = sides
            fits = fits and sides == [(a, a), (b, b)] and a * b == size
        if not fits:
            raise ValueError(
                "The arrays of a posterior must be of the weights' total size. Received: "
                f"shapes={self.shapes}, mean {self.mean.shape}, diagonal {self.diagonal.shape}, deviations "
                f"{self.deviations.shape}, rotations {sides}"
            )
        arrays = [self.mean, self.diagonal, self.deviations, *(self.rotations or ())]
        if not all(np.isfinite(array).all() for array in arrays) or (self.diagonal < 0).any():
            raise ValueError(
                "A posterior must be finite, with variances that aren't negative: did the training diverge? "
                f"Received: mean from {np.min(self.mean):.4g} to {np.max(self.mean):.4g}, least variance "
                f"{np.min(self.diagonal):.4g}"
            )

    def __repr__(self):
        size, form = len(self.mean), "rotated" if self.rotations is not None else "diagonal"
        return f"<WeightPosterior of {size} weights: {form}, rank {len(self.deviations)}, {self.information}>"

    def draw(self, seed: int) -> dict[int, np.ndarray]:
        """Returns one sample: a dictionary from indices in `model.weights` to arrays.

        Args:
            seed: Integer, or a list of these; each has its own sample.
        """
        random = np.random.default_rng(seed)
        offset = np.sqrt(self.diagonal) * random.standard_normal(len(self.mean), "float32")
        offset = offset + random.standard_normal(len(self.deviations), "float32") @ self.deviations
        return self.arrays(self.mean + self._rotated(offset))

    def arrays(self, vector: np.ndarray) -> dict[int, np.ndarray]:
        """Returns a vector such as `mean` as a dictionary from indices in `model.weights` to arrays."""
        parts = np.split(vector, np.cumsum(self.sizes)[:-1])
        return {index: part.reshape(shape) for index, part, shape in zip(self.indices, parts, self.shapes)}

    def covariance(self) -> np.ndarray:
        """Returns the covariance `(size, size)`.

        Raises:
            ValueError: There are more than 5000 weights.
        """
        if len(self.mean) > _MOST_DENSE:
            raise ValueError(
                f"The covariance of more than {_MOST_DENSE} weights is too large to be one matrix. "
                f"Received: size={len(self.mean)}"
            )
        root = np.concatenate([np.diag(np.sqrt(self.diagonal)), self.deviations])
        root = np.stack([self._rotated(row) for row in root])
        return root.T @ root

    def _rotated(self, vector):
        if self.rotations is None:
            return vector
        left, right = self.rotations
        return (left @ vector.reshape(len(left), len(right)) @ right.T).reshape(-1)

    def check_fits(self, model: keras.Model) -> None:
        """Raises `ValueError` if the model has other weights than those that this was made for."""
        weights = model.weights
        expected = dict(zip(self.indices, self.shapes))
        found = {index: tuple(weights[index].shape) for index in self.indices if index < len(weights)}
        if found != expected:
            raise ValueError(
                f"The posterior is of weights (by index) {expected}, which model {model.name!r} doesn't have: it was "
                f"made for another model. Received: {found}"
            )

    def save(self, path: str | pathlib.Path) -> None:
        """Writes it to an `.npz` file, which is there whole or not at all."""
        path = _checked(path)
        arrays: dict[str, Any] = {"mean": self.mean, "diagonal": self.diagonal, "deviations": self.deviations}
        if self.rotations is not None:
            arrays |= {"left": self.rotations[0], "right": self.rotations[1]}
        about = {"indices": self.indices, "shapes": self.shapes, "information": self.information}
        with replacing(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, about=np.array(json.dumps(about)), **arrays)

    @classmethod
    def load(cls, path: str | pathlib.Path) -> "WeightPosterior":
        """Returns what `save` wrote.

        Raises:
            ValueError: The file isn't one of these.
        """
        path = _checked(path)
        try:
            with np.load(path, allow_pickle=False) as file:
                about = json.loads(str(file["about"]))
                if {*file.files} not in _NAMES:
                    raise ValueError(f"it holds {sorted(file.files)}")
                rotations = (file["left"], file["right"]) if "left" in file else None
                arrays = file["mean"], file["diagonal"], file["deviations"], rotations
                return cls(about["indices"], about["shapes"], *arrays, about["information"])
        except FileNotFoundError:
            raise
        except Exception as error:
            raise ValueError(f"There is no posterior in this file: {error}. Received: path={str(path)!r}") from error


def _checked(path):
    path = pathlib.Path(check_path("path", path))
    if path.suffix != ".npz":
        raise ValueError(f"`path` must end in '.npz'. Received: path={str(path)!r}")
    return path
