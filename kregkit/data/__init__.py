"""From a TFDS name, arrays or files to what `model.fit` reads."""

from kregkit.data.digits import digits
from kregkit.data.load import load

__all__ = ["digits", "load"]
