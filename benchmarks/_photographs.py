"""Folders of JPEG photographs beside TensorFlow's own recipe, and the time to the first batch of a pass."""

import pathlib
import statistics
import tempfile
import time

import numpy as np

SIZE, JITTER = 224, 0.4


def write_photographs(directory, num, height, width):
    """Writes JPEG files of the two photographs that come with scikit-learn, and returns their paths."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    folder = pathlib.Path(directory, "photographs", "all")
    folder.mkdir(parents=True)
    paths = []
    for index in range(num):
        image = Image.fromarray(load_sample_images().images[index % 2]).resize((width, height), Image.LANCZOS)
        paths.append(str(folder / f"{index:05d}.jpg"))
        image.save(paths[-1], quality=90)
    return paths


def kregkit_photographs(paths, batch_size, colors):
    from kregkit import data

    operations = [data.RandomResizedCrop(SIZE), data.RandomFlip()]
    operations += [data.ColorJitter(JITTER, JITTER, JITTER)] if colors else []
    return data.pipeline(pathlib.Path(paths[0]).parents[1], batch_size, operations, shuffle=False)


def recipe(paths, batch_size, colors):
    """The window alone is decoded, as TensorFlow's guides have it."""
    import tensorflow as tf

    def read(index, path):
        seeds = tf.random.split([0, tf.cast(index, tf.int32)], 5)
        content = tf.io.read_file(path)
        begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
            tf.image.extract_jpeg_shape(content),
            tf.zeros([1, 0, 4]),
            seeds[0],
            area_range=(0.08, 1.0),
            aspect_ratio_range=(3 / 4, 4 / 3),
            max_attempts=10,
            use_image_if_no_bounding_boxes=True,
        )
        image = tf.image.decode_and_crop_jpeg(content, tf.concat([begin[:2], size[:2]], 0), channels=3)
        image = tf.image.resize(image, (SIZE, SIZE)) * (1 / 255)
        image = tf.image.stateless_random_flip_left_right(image, seeds[1])
        if colors:
            image = tf.image.stateless_random_brightness(image, JITTER, seeds[2])
            image = tf.image.stateless_random_contrast(image, 1 - JITTER, 1 + JITTER, seeds[3])
            image = tf.image.stateless_random_saturation(image, 1 - JITTER, 1 + JITTER, seeds[4])
            image = tf.clip_by_value(image, 0.0, 1.0)
        return image

    dataset = tf.data.Dataset.from_tensor_slices(paths).enumerate()
    return dataset.map(read, num_parallel_calls=tf.data.AUTOTUNE).batch(batch_size).prefetch(tf.data.AUTOTUNE)


def passes(dataset, num):
    """Returns seconds of a pass, and seconds to its first batch, `num` times after a first one that warms up."""
    found = []
    for _ in range(num + 1):
        start, first = time.perf_counter(), None
        for _ in dataset:
            first = first or time.perf_counter() - start
        found.append((time.perf_counter() - start, first))
    return found[1:]


def interleaved(datasets, repeats):
    """Returns the passes of each dataset, in turn."""
    for dataset in datasets.values():
        passes(dataset, 0)
    found = {name: [] for name in datasets}
    for _ in range(repeats):
        for name, dataset in datasets.items():
            start, first = time.perf_counter(), None
            for _ in dataset:
                first = first or time.perf_counter() - start
            found[name].append((time.perf_counter() - start, first))
    return found


def print_photographs(smoke):
    cases = [(375, 500, 512, True), (375, 500, 512, False), (3000, 4000, 48, False)]
    print(f"\nImages per second from folders of JPEG files, random-size crop to {SIZE}, flip")
    print(f"{'':36s}{'kregkit':>10s}{'recipe':>10s}{'ratio':>8s}{'of CPU':>8s}")
    for height, width, num, colors in cases:
        num = 8 if smoke else num
        with tempfile.TemporaryDirectory() as directory:
            paths = write_photographs(directory, num, height, width)
            batch_size = min(num, 32 if height < 1000 else 16)
            datasets = {
                "kregkit": kregkit_photographs(paths, batch_size, colors),
                "recipe": recipe(paths, batch_size, colors),
            }
            cpu = {name: [] for name in datasets}
            rates = {name: [] for name in datasets}
            for dataset in datasets.values():
                passes(dataset, 0)
            for _ in range(1 if smoke else 7):
                for name, dataset in datasets.items():
                    wall, used = time.perf_counter(), time.process_time()
                    for _ in dataset:
                        pass
                    rates[name].append(num / (time.perf_counter() - wall))
                    cpu[name].append(time.process_time() - used)
        ours, theirs = (statistics.median(rates[name]) for name in ("kregkit", "recipe"))
        ratio = statistics.median(a / b for a, b in zip(rates["kregkit"], rates["recipe"]))
        # Per second of processor time, which other programs disturb less.
        used = statistics.median(b / a for a, b in zip(cpu["kregkit"], cpu["recipe"]))
        row = f"{height}x{width}" + (", brightness, contrast, saturation" if colors else "")
        print(f"{row:36s}{ours:10,.0f}{theirs:10,.0f}{ratio:8.2f}{used:8.2f}")


def print_passes(smoke, images, make_ours, make_theirs):
    """Prints milliseconds to the first batch of a pass, and images per second, of later passes.

    Args:
        smoke: Boolean.
        images: Callable `(size, num)`.
        make_ours, make_theirs: Callables `(x, size)` that return datasets.
    """
    print("\nMilliseconds to the first batch from the second pass on, and images per second")
    print(f"{'':22s}{'kregkit':>16s}{'tf.image':>16s}{'first batch':>13s}{'images/s':>10s}")
    for size in (8, 32, 224):
        for num in (64,) if smoke else (512, 10_000):
            # A gigabyte and a half of images.
            if size == 224 and num > 4096:
                num = 4096
            x = np.ascontiguousarray(images(size, num))
            found = interleaved({"ours": make_ours(x, size), "theirs": make_theirs(x, size)}, 1 if smoke else 9)
            seconds, first = (
                {name: statistics.median(one[part] for one in found[name]) for name in found} for part in (0, 1)
            )
            print(
                f"{f'{num:,} of {size}x{size}':22s}"
                + "".join(f"{1000 * first[name]:6.0f} {num / seconds[name]:9,.0f}" for name in found)
                + f"{first['ours'] / first['theirs']:13.2f}{seconds['theirs'] / seconds['ours']:10.2f}"
            )
