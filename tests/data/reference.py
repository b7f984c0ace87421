"""Independent per-image NumPy versions, in float64, of what the operations promise."""

import numpy as np


def sample(image, x, y, fill="constant"):
    """Bilinear value of `image (h, w, c)` at one place, pixel centres at whole numbers."""
    height, width = image.shape[:2]
    if fill == "constant" and not (-0.5 <= x <= width - 0.5 and -0.5 <= y <= height - 0.5):
        return np.zeros(image.shape[2])

    def settle(position, size):
        if fill == "reflect":
            while not -0.5 <= position <= size - 0.5:
                position = -1 - position if position < -0.5 else 2 * size - 1 - position
        return min(max(position, 0.0), size - 1.0)

    x, y = settle(x, width), settle(y, height)
    left, top = int(np.floor(x)), int(np.floor(y))
    right, bottom = min(left + 1, width - 1), min(top + 1, height - 1)
    a, b = x - left, y - top
    upper = (1 - a) * image[top, left] + a * image[top, right]
    lower = (1 - a) * image[bottom, left] + a * image[bottom, right]
    return (1 - b) * upper + b * lower


def resample(image, back, size=None, fill="constant"):
    """Shows at each output pixel, measured from the centre, the place `back(x, y)` of the input, likewise."""
    image = np.asarray(image, "float64")
    height, width = size or image.shape[:2]
    result = np.zeros((height, width, image.shape[2]))
    for i in range(height):
        for j in range(width):
            x, y = back(j - (width - 1) / 2, i - (height - 1) / 2)
            result[i, j] = sample(image, x + (image.shape[1] - 1) / 2, y + (image.shape[0] - 1) / 2, fill)
    return result


def mix(z):
    """SplitMix64's finalizer in Python integers."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
    return z ^ (z >> 31)


def fold(key, value):
    return mix((key + 0x9E3779B97F4A7C15 * (value + 1)) % 2**64)
