"""Which way up a photograph is: the EXIF orientation in the header of a JPEG or PNG file."""

import struct

import numpy as np


def exif_orientation(content):
    """Returns the EXIF orientation, 1 to 8, from the bytes of an image file; 1, upright, where none is found."""
    try:
        if content[:2] == b"\xff\xd8":
            header = _jpeg_header(content)
        elif content[:8] == b"\x89PNG\r\n\x1a\n":
            header = _png_header(content)
        else:
            return 1
        return 1 if header is None else _orientation(header)
    except (struct.error, IndexError):
        return 1


def upright(image, orientation):
    """Returns an image `(h, w, channels)` as its orientation says that it is to be seen."""
    if orientation >= 5:
        image = image.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)


def _jpeg_header(content):
    start = 2
    while True:
        marker, kind, length = struct.unpack_from(">BBH", content, start)
        # Where the scan begins there are no more headers.
        if marker != 0xFF or kind in (0xD9, 0xDA):
            return None
        if kind == 0xFF:
            # Any number of these may stand before a marker.
            start += 1
            continue
        if kind == 0xE1 and content[start + 4 : start + 10] == b"Exif\0\0":
            return content[start + 10 : start + 2 + length]
        start += 2 + length


def _png_header(content):
    start = 8
    while True:
        length, kind = struct.unpack_from(">I4s", content, start)
        if kind == b"eXIf":
            return content[start + 8 : start + 8 + length]
        if kind == b"IEND":
            return None
        start += 12 + length


def _orientation(header):
    order = {b"II": "<", b"MM": ">"}.get(header[:2])
    if order is None:
        return 1
    (start,) = struct.unpack_from(order + "I", header, 4)
    (num,) = struct.unpack_from(order + "H", header, start)
    for number in range(num):
        tag, kind, _, value = struct.unpack_from(order + "HHIH", header, start + 2 + 12 * number)
        if tag == 0x0112 and kind == 3:
            return value if 1 <= value <= 8 else 1
    return 1
