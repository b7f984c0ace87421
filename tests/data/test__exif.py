import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageOps

from kregkit.data._exif import exif_orientation, upright

IMAGE = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype="uint8")


def encoded(orientation, kind="PNG", order="II"):
    exif = Image.Exif()
    exif.endian = {"II": "<", "MM": ">"}[order]
    exif[0x010F] = "a camera's name"
    if orientation is not None:
        exif[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(IMAGE).save(file, kind, exif=exif)
    return file.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_against_pillow(orientation, kind):
    content = encoded(orientation, kind)
    assert exif_orientation(content) == orientation
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded(orientation))))
    np.testing.assert_array_equal(upright(IMAGE, orientation), expected)


def test_a_header_laid_out_otherwise():
    content = encoded(6, "JPEG")
    # Fill bytes before a marker.
    for num in (1, 2, 3):
        assert exif_orientation(content[:2] + b"\xff" * num + content[2:]) == 6
    # The directory needn't follow the eight bytes of the beginning.
    for order, sign in ((b"II*\0", "<"), (b"MM\0*", ">")):
        entry = struct.pack(sign + "HHHIHHI", 1, 0x0112, 3, 1, 8, 0, 0)
        header = b"Exif\0\0" + order + struct.pack(sign + "I", 22) + bytes(14) + entry
        segment = b"\xff\xe1" + struct.pack(">H", len(header) + 2) + header
        turned = content[:2] + segment + encoded(None, "JPEG")[2:]
        assert exif_orientation(turned) == 8
        assert Image.open(io.BytesIO(turned)).getexif()[0x0112] == 8


def test_whatever_a_header_holds():
    assert exif_orientation(encoded(6, "JPEG", "MM")) == 6
    for content in (encoded(None), encoded(None, "JPEG"), encoded(9), encoded(0, "JPEG"), b"", b"GIF89a", b"BM"):
        assert exif_orientation(content) == 1
    for content in (encoded(6), encoded(6, "JPEG")):
        for length in range(len(content)):
            assert exif_orientation(content[:length]) in (1, 6)
