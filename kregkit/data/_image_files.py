"""Image files as a source: read and decoded when an example is wanted."""

import hashlib
import io
import logging
import os
import stat
import struct

import numpy as np
import tensorflow as tf

from kregkit._core.checks import check_choice, check_integer
from kregkit.data._cache import open_cache
from kregkit.data._exif import exif_orientation, upright
from kregkit.data._graph_checks import text

_LOG = logging.getLogger("kregkit.data")
# Twice as many as those above which PIL warns: from there on, PIL refuses an image as a decompression bomb.
MOST_PIXELS = 2 * 89_478_485


class UnreadableImage(ValueError):
    """A file that holds no image."""


class FileSource:
    """Image files and their labels: a sequence of `(image, label)`, decoded when they are wanted.

    Args:
        paths: List of paths.
        labels: List of integers.
        class_names: List of the classes' names.
        channels: 0 (as in the file), 1, 3 or 4.
        on_error: `"raise"` or `"skip"`. What was skipped is logged once per file and kept in `skipped`.
        cache: `True` keeps decoded images in memory, a path in a directory.
        orientation: Boolean, whether to turn images as their EXIF header says.
        max_pixels: Integer, the most pixels that an image may have; it is refused before it is decoded. `None` for any.
        bits: 8 or 16, of each number.
    """

    batched = False

    def __init__(
        self,
        paths,
        labels,
        class_names,
        channels=3,
        on_error="raise",
        cache=False,
        orientation=True,
        max_pixels=MOST_PIXELS,
        bits=8,
    ):
        self.paths, self.class_names, self.channels = [str(path) for path in paths], class_names, channels
        self.on_error = check_choice("on_error", on_error, ("raise", "skip"))
        self.skip = on_error == "skip"
        self.skipped = {}
        self.size = len(self.paths)
        self.labels = tf.constant(labels, tf.int64)
        # Strings in a tensor of their own would take twice the memory, and could only be UTF-8.
        self._joined_paths, self._path_ends = _joined(self.paths)
        self.orientation = check_choice("orientation", orientation, (True, False))
        self.max_pixels = None if max_pixels is None else check_integer("max_pixels", max_pixels, 1)
        # The name under which the cache keeps an image depends on the file's path, time and size.
        self._cache = open_cache(cache, {"kind": "image files"})
        self.bits = check_choice("bits", bits, (8, 16))
        self._number_type = tf.uint8 if bits == 8 else tf.uint16
        # What a cache keeps is decoded.
        self.in_part = cache is False
        self.encoded = bits == 8
        self.spec = (tf.TensorSpec((None, None, channels or None), self._number_type), tf.TensorSpec((), tf.int64))

    def first(self, num):
        """Returns what is known before a file is read: the labels."""
        return None, (None, self.labels)

    def first_spec(self):
        return None

    def describe(self, index):
        # Python can't show TensorFlow's error of other bytes.
        path = tf.strings.unicode_transcode(self.path_in_graph(index), "UTF-8", "UTF-8", errors="replace")
        return text("The image file ", path)

    def path_in_graph(self, index):
        """Returns the path of one file, a string tensor."""
        start, end = tf.gather(self._path_ends, index), tf.gather(self._path_ends, index + 1)
        return tf.strings.substr(self._joined_paths, start, end - start)

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        """Returns one example as NumPy values; a file that can't be read is an error whatever `on_error` says."""
        return self._decode(range(self.size)[index]), int(self.labels[index])

    def _decode(self, index):
        path = self.paths[index]
        try:
            # Another file under the same name is another image.
            state = os.stat(path)
            if not stat.S_ISREG(state.st_mode):
                raise OSError("it is no ordinary file")
            key = f"{path}|{state.st_mtime_ns}|{state.st_size}|{self.channels}|{self.orientation}"
            key += "" if self.bits == 8 else f"|{self.bits} bits"
            name = hashlib.sha256(os.fsencode(key)).hexdigest()
        except OSError as error:
            raise UnreadableImage(f"The image file {printable(path)} can't be read: {error}") from None
        # A damaged cache is an error of its own: a damaged image may be skipped.
        cached = self._cache.get(name, [self._number_type])
        if cached is not None:
            return cached[0]
        try:
            image = decoded_content(_content(path), self.channels, self.orientation, self.max_pixels, self.bits)
        except (OSError, ValueError, tf.errors.OpError) as error:
            # TensorFlow puts the node's name in braces before the reason.
            reason = str(getattr(error, "message", error)).splitlines()[0].rpartition("}} ")[2]
            reason = reason.partition(" [Op:")[0][:200]
            raise UnreadableImage(f"The image file {printable(path)} can't be read: {reason}") from None
        self._cache.put(name, [image])
        return image

    def _decode_or_skip(self, index):
        path = self.paths[index]
        try:
            return self._decode(index), True
        except UnreadableImage as error:
            if not self.skip:
                raise
            if path not in self.skipped:
                self.skipped[path] = str(error).partition("can't be read: ")[2]
                _LOG.warning("Skipped %s (%d so far): %s", printable(path), len(self.skipped), self.skipped[path])
            return np.zeros((1, 1, self.channels or 3), self._number_type.as_numpy_dtype), False

    def report(self, index):
        """Raises the error of a file that can't be read, or logs that it is skipped."""
        path = self.paths[index]
        _, good = self._decode_or_skip(index)
        if good and self.skip and path not in self.skipped:
            self.skipped[path] = "its window can't be decoded"
            _LOG.warning("Skipped %s (%d so far): %s", printable(path), len(self.skipped), self.skipped[path])

    def fetch_encoded(self, index):
        """Returns the bytes of a file, its example without an image, and its orientation if it is known before."""
        content = tf.io.read_file(self.path_in_graph(index)) if self.in_part else tf.constant("")
        return content, (content, tf.gather(self.labels, index)), None

    def whole(self, index):
        """Returns an image, whatever `on_error` says."""
        image = tf.numpy_function(self._decode, [index], self._number_type, stateful=False)
        image.set_shape(self.spec[0].shape)
        return image

    def fetch(self, index):
        """Returns an example; with `on_error="skip"`, a pair of it and whether it could be read."""
        image, good = tf.numpy_function(self._decode_or_skip, [index], [self._number_type, tf.bool], stateful=False)
        image.set_shape(self.spec[0].shape)
        good.set_shape(())
        example = (image, tf.gather(self.labels, index))
        return (example, good) if self.skip else example


def printable(path):
    """Returns a path with bytes replaced that are no UTF-8, which TensorFlow's errors and most terminals can't show."""
    return os.fsencode(path).decode(errors="replace")


def _joined(paths):
    """Returns all paths as one string tensor, and where they end in it, int64, which begins with 0."""
    joined, ends = io.BytesIO(), np.zeros(len(paths) + 1, "int64")
    for number, path in enumerate(paths, 1):
        joined.write(os.fsencode(path))
        ends[number] = joined.tell()
    return tf.constant(joined.getvalue()), tf.constant(ends)


def _content(path):
    """Returns the bytes of an ordinary file; a pipe or a device, whose reading may never end, isn't opened for long."""
    # Opening a pipe waits for someone who writes, unless one asks not to wait.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with open(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise ValueError("it is no ordinary file")
        return file.read()


def decoded_content(content, channels, orientation, max_pixels, bits=8):
    """Returns the pixels of an image file, upright if `orientation`, `(h, w, channels)` of 8 or 16 bits."""
    check_kind(content)
    check_num_pixels(content, max_pixels)
    image = _decoded(content, channels, bits)
    if orientation:
        image = upright(image, exif_orientation(content))
    if not image.size:
        raise ValueError("it has no pixels")
    return image


def check_kind(content):
    """Raises an error if a file begins as none of the kinds that are read, whatever its name says.

    TensorFlow decodes further kinds, but their sizes aren't known before, and an animated WebP file ends the process.
    """
    if not content:
        raise ValueError("it is empty")
    if not content.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM")):
        kind = "a WebP file" if content[:4] + content[8:12] == b"RIFFWEBP" else "no image file"
        raise ValueError(f"by its contents it is {kind}; JPEG, PNG, GIF and BMP files are read")


def check_num_pixels(content, max_pixels):
    """Raises an error if a file's header says that the image, with all its frames, has too many pixels."""
    num = num_pixels(content)
    if max_pixels is not None and num is not None and num > max_pixels:
        raise ValueError(
            f"it would have {num} pixels, more than `max_pixels={max_pixels}`, which may be a bomb that fills the "
            "memory; raise `max_pixels` if it is none"
        )


def num_pixels(content):
    r"""Returns the number of pixels that the header of an image file tells of, `None` where it tells of none.

    >>> num_pixels(b"\x89PNG\r\n\x1a\n" + bytes(8) + (640).to_bytes(4) + (480).to_bytes(4)) == 640 * 480
    True
    """
    try:
        if content[:8] == b"\x89PNG\r\n\x1a\n":
            width, height = struct.unpack(">II", content[16:24])
            return width * height
        if content[:3] == b"GIF":
            return _num_pixels_of_gif(content)
        if content[:2] == b"BM":
            # OS/2 has smaller headers.
            of_os2 = content[14:18] == b"\x0c\0\0\0"
            width, height = struct.unpack_from("<HH" if of_os2 else "<ii", content, 18)
            return abs(width * height)
        if content[:2] == b"\xff\xd8":
            return _num_pixels_of_jpeg(content)
    except struct.error:
        pass
    return None


def _num_pixels_of_gif(content):
    """Returns the pixels of all frames, since TensorFlow decodes them all, or those of the screen if they are more."""
    width, height, flags = struct.unpack("<HHB", content[6:11])
    position, num = 13 + _length_of_table(flags), 0
    while content[position : position + 1] in (b"!", b","):
        if content[position] == ord("!"):
            position += 2
        else:
            *size, flags = struct.unpack("<HHB", content[position + 5 : position + 10])
            num += size[0] * size[1]
            position += 11 + _length_of_table(flags)
        # Blocks of up to 255 bytes, and an empty one at the end.
        while content[position : position + 1] not in (b"", b"\0"):
            position += 1 + content[position]
        position += 1
    return max(num, width * height)


def _length_of_table(flags):
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _num_pixels_of_jpeg(content):
    position = 2
    while position + 9 <= len(content):
        if content[position] != 0xFF:
            return None
        marker = content[position + 1]
        if marker == 0xFF or marker == 0x01 or 0xD0 <= marker <= 0xD8:
            # Fill bytes, and markers without a segment.
            position += 1 if marker == 0xFF else 2
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", content[position + 5 : position + 9])
            return width * height
        else:
            length = int.from_bytes(content[position + 2 : position + 4], "big")
            if length < 2:
                return None
            position += 2 + length
    return None


def _decoded(content, channels, bits):
    """Returns the pixels of an image file.

    Beyond `tf.io.decode_image`: palettes of BMP, grey BMP, GIF and CMYK, four channels of files that have no alpha.
    """
    if bits == 16 and content[:4] != b"\x89PNG":
        # 255 becomes 65535.
        return _decoded(content, channels, 8) * np.uint16(257)
    if channels == 4:
        image = _decoded(content, 0, bits)
        num = image.shape[-1]
        alpha = image[..., -1:] if num in (2, 4) else np.full_like(image[..., :1], np.iinfo(image.dtype).max)
        return np.concatenate([image[..., :3] if num > 2 else np.repeat(image[..., :1], 3, -1), alpha], -1)
    by_hand = channels == 1 and (content[:2] in (b"BM", b"GI") or _is_cmyk(content))
    wanted = 3 if by_hand else channels
    if content[:2] == b"BM":
        image = _decoded_bmp(content, wanted)
    else:
        dtype = tf.uint8 if bits == 8 else tf.uint16
        image = tf.io.decode_image(content, channels=wanted, dtype=dtype, expand_animations=False).numpy()
    return tf.image.rgb_to_grayscale(image).numpy() if by_hand else image


def _decoded_bmp(content, channels):
    """Returns the pixels of a BMP file in 0 (as in the file) or 3 channels."""
    if len(content) < 54:
        raise ValueError("it is cut off")
    offset, length, width, height, _, bits, compression = struct.unpack_from("<10xIIiiHHI", content)
    has_palette = bits in (1, 4, 8)
    if has_palette and length >= 40 and compression == 0:
        return _decoded_bmp_palette(content, offset, 14 + length, width, height, bits, channels)
    # Masks say where in a pixel red, green and blue stand, which TensorFlow takes for granted.
    usual = compression == 0 or content[54:66] == bytes((0, 0, 255, 0, 0, 255, 0, 0, 255, 0, 0, 0))
    if has_palette or length < 40 or bits not in (24, 32) or not usual:
        raise ValueError(
            f"BMP of {bits} bits per pixel, compression {compression} and a header of {length} bytes isn't read; save "
            "it as PNG"
        )
    image = tf.io.decode_image(content, channels=channels).numpy()
    if image.shape[-1] == 4 and not image[..., 3].any():
        # The fourth byte is unused.
        image = np.concatenate([image[..., :3], np.full_like(image[..., :1], 255)], -1)
    return image


def _decoded_bmp_palette(content, offset, start, width, height, bits, channels):
    """Returns the colours of a BMP file whose pixels are numbers of colours; TensorFlow returns the numbers."""
    if width <= 0 or height == 0:
        raise ValueError("it has no pixels")
    # A row fills words of four bytes.
    num_rows, row_length = abs(height), (width * bits + 31) // 32 * 4
    rows = np.frombuffer(content[offset : offset + num_rows * row_length], "uint8")
    if rows.size < num_rows * row_length:
        raise ValueError("it is cut off")
    # The first pixel is in a byte's highest bits.
    shifts = np.arange(8 - bits, -1, -bits, dtype="uint8")
    numbers = (rows.reshape(num_rows, -1, 1) >> shifts) & np.uint8(2**bits - 1)
    numbers = numbers.reshape(num_rows, -1)[:, :width]
    colors = np.frombuffer(content[start:offset][: 4 * 2**bits], "uint8")
    colors = colors[: colors.size // 4 * 4].reshape(-1, 4)[:, 2::-1]
    # A number beyond the palette is black.
    palette = np.zeros((2**bits, 3), "uint8")
    palette[: len(colors)] = colors
    image = palette[numbers if height < 0 else numbers[::-1]]
    return image[..., :1] if channels == 0 and (palette == palette[:, :1]).all() else image


def _is_cmyk(content):
    return content[:2] == b"\xff\xd8" and int(tf.image.extract_jpeg_shape(content)[2]) == 4
