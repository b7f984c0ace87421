"""Images per second of augmentation pipelines: kregkit beside keras.layers, tf.image and albumentations.

Every contender reads the same uint8 images from memory and gives float32 batches. Two groups of operations:

    first:  flip, shift by up to an eighth with zeros outside, brightness, contrast, saturation
    second: the same with rotation, shear and PCA colour noise added

`keras.layers` takes batches (its faster form) and shifts by RandomTranslation, since its RandomCrop draws one place
per batch; `tf.image`, which can't rotate, does so by ImageProjectiveTransformV3 in the second group. "one warp (V3)" is
kregkit's own pipeline with its resampling replaced by that operation. albumentations runs in as many processes as
there are cores, each making whole batches.

A pass is timed as `fit` makes it, from asking for an iterator to its last batch. What the start of a pass costs
(a new iterator prepares all functions again; kregkit's later passes read on) is printed beside.

Automatic augmentation stands apart: kregkit's TrivialAugment and RandAugment beside keras.layers.RandAugment, which
draws two kinds for a batch where kregkit does for each image.

Then folders of JPEG photographs beside `tf.image.decode_and_crop_jpeg` and `tf.image`, and what the first batch of a
pass costs in short and long passes.

    python benchmarks/augmentation.py [--smoke] [--no-memory] [--no-training] [--no-throughput] [--no-photographs]
                                        [--no-passes] [--no-automatic]
"""

import argparse
import json
import multiprocessing
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from _memory import forget_peak, resident
from _photographs import print_passes, print_photographs

BATCH = {8: 32, 32: 128, 224: 16}
# Over a hundred batches, so that a pass is not mainly its start.
NUM = {32: 16_384, 224: 1920}
MEMORY_NUM = 192
REPEATS = 5
# Keras's own takes seconds for a batch of photographs.
AUTOMATIC_NUM = {32: 2048, 224: 96}
CONTENDERS = ("kregkit", "one warp (V3)", "keras.layers", "tf.image", "albumentations")
ANGLE, SHEAR, JITTER = 15.0, 10.0, 0.4


def images(size, num):
    """Returns crops of the two photographs that come with scikit-learn."""
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(0)
    photographs = load_sample_images().images
    result = np.empty((num, size, size, 3), "uint8")
    for index in range(num):
        photograph = photographs[index % 2]
        top, left = (rng.integers(0, have - size + 1) for have in photograph.shape[:2])
        result[index] = photograph[top : top + size, left : left + size]
    return result


def kregkit_operations(size, second, x):
    from kregkit import data

    operations = [data.RandomFlip(), data.RandomCrop(size // 8)]
    if second:
        operations += [data.RandomRotation(ANGLE), data.RandomShear(SHEAR)]
    operations.append(data.ColorJitter(JITTER, JITTER, JITTER))
    return operations + [data.PCAColorNoise().fit(x[:64])] if second else operations


def kregkit_dataset(x, size, second):
    from kregkit import data

    return data.pipeline(x, BATCH[size], kregkit_operations(size, second, x), shuffle=False)


def one_warp_dataset(x, size, second):
    """The second group with kregkit's keys, coordinates and colours, but TensorFlow's resampling."""
    import tensorflow as tf

    from kregkit import data
    from kregkit.data.color import Color

    operations = kregkit_operations(size, second, x)
    augment = data.Augment(operations)
    colors = data.Augment([one for one in operations if isinstance(one, Color)])
    half = (size - 1) / 2

    def warp(index, batch):
        keys = data.make_keys(0, 0, index)
        matrix = tf.eye(3)[None]
        for place, operation in enumerate(operations):
            if not isinstance(operation, Color):
                for _, step in operation.steps(augment.draws(keys, place), size, size):
                    matrix = matrix @ step
        to, back = np.eye(3, dtype="float32"), np.eye(3, dtype="float32")
        to[:2, 2], back[:2, 2] = -half, half
        flat = tf.reshape(back @ matrix @ to, (-1, 9))[:, :8]
        moved = tf.raw_ops.ImageProjectiveTransformV3(
            images=tf.cast(batch, tf.float32) * (1 / 255),
            transforms=flat,
            output_shape=[size, size],
            fill_value=0.0,
            interpolation="BILINEAR",
            fill_mode="CONSTANT",
        )
        return colors(moved, keys)

    dataset = tf.data.Dataset.from_tensor_slices(x).enumerate().batch(BATCH[size])
    return dataset.map(warp, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def keras_dataset(x, size, second):
    import keras
    import tensorflow as tf

    layers = [
        keras.layers.RandomFlip("horizontal"),
        keras.layers.RandomTranslation(1 / 8, 1 / 8, fill_mode="constant"),
    ]
    if second:
        turn = ANGLE / 360
        layers += [
            keras.layers.RandomRotation(turn, fill_mode="constant"),
            keras.layers.RandomShear(float(np.tan(np.deg2rad(SHEAR))), 0.0, fill_mode="constant"),
        ]
    layers += [
        keras.layers.RandomBrightness(JITTER, value_range=(0, 1)),
        keras.layers.RandomContrast(JITTER, value_range=(0, 1)),
        keras.layers.RandomSaturation((0.5 - JITTER / 4, 0.5 + JITTER / 4), value_range=(0, 1)),
    ]
    noise = kregkit_operations(size, True, x)[-1] if second else None

    def augment(batch):
        batch = tf.cast(batch, tf.float32) * (1 / 255)
        for layer in layers:
            batch = layer(batch, training=True)
        if second:
            alphas = tf.random.normal((tf.shape(batch)[0], 3), stddev=0.1) * np.float32(noise.eigenvalues)
            shift = tf.matmul(alphas, np.float32(noise.eigenvectors), transpose_b=True)
            batch = tf.clip_by_value(batch + shift[:, None, None], 0.0, 1.0)
        return batch

    dataset = tf.data.Dataset.from_tensor_slices(x).batch(BATCH[size])
    return dataset.map(augment, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def tf_image_dataset(x, size, second):
    import tensorflow as tf

    noise = kregkit_operations(size, True, x)[-1] if second else None
    pad, half = size // 8, (size - 1) / 2

    def augment(index, image):
        seeds = tf.random.split([0, tf.cast(index, tf.int32)], 8)
        image = tf.image.stateless_random_flip_left_right(image, seeds[0])
        image = tf.pad(image, [[pad, pad], [pad, pad], [0, 0]])
        image = tf.image.stateless_random_crop(image, (size, size, 3), seeds[1])
        image = tf.cast(image, tf.float32) * (1 / 255)
        if second:
            for seed, most, shear in ((seeds[2], ANGLE, False), (seeds[3], SHEAR, True)):
                angle = tf.random.stateless_uniform((), seed, -most, most) * (np.pi / 180)
                if shear:
                    a, b, c, d = 1.0, -tf.tan(angle), 0.0, 1.0
                else:
                    a, b, c, d = tf.cos(angle), tf.sin(angle), -tf.sin(angle), tf.cos(angle)
                transform = [a, b, half - half * (a + b), c, d, half - half * (c + d), 0.0, 0.0]
                image = tf.raw_ops.ImageProjectiveTransformV3(
                    images=image[None],
                    transforms=tf.stack(transform)[None],
                    output_shape=[size, size],
                    fill_value=0.0,
                    interpolation="BILINEAR",
                    fill_mode="CONSTANT",
                )[0]
        image = tf.image.stateless_random_brightness(image, JITTER, seeds[4])
        image = tf.image.stateless_random_contrast(image, 1 - JITTER, 1 + JITTER, seeds[5])
        image = tf.image.stateless_random_saturation(image, 1 - JITTER, 1 + JITTER, seeds[6])
        if second:
            alphas = tf.random.stateless_normal((3,), seeds[7], stddev=0.1) * np.float32(noise.eigenvalues)
            image = image + tf.linalg.matvec(np.float32(noise.eigenvectors), alphas)
        return tf.clip_by_value(image, 0.0, 1.0)

    dataset = tf.data.Dataset.from_tensor_slices(x).enumerate()
    dataset = dataset.map(augment, num_parallel_calls=tf.data.AUTOTUNE)
    return dataset.batch(BATCH[size]).prefetch(tf.data.AUTOTUNE)


_WORKER = {}


def _start_worker(path, size, second):
    import albumentations as A
    import cv2

    # One thread each: the processes are the parallelism.
    cv2.setNumThreads(1)
    transforms = [
        A.HorizontalFlip(p=0.5),
        A.PadIfNeeded(size + size // 4, size + size // 4, border_mode=cv2.BORDER_CONSTANT, fill=0),
        A.RandomCrop(size, size),
    ]
    if second:
        transforms.append(
            A.Affine(rotate=(-ANGLE, ANGLE), shear={"x": (-SHEAR, SHEAR), "y": (0, 0)}, p=1.0, border_mode=0, fill=0)
        )
    jitter = (1 - JITTER, 1 + JITTER)
    transforms.append(A.ColorJitter(brightness=jitter, contrast=jitter, saturation=jitter, hue=(0, 0), p=1.0))
    if second:
        transforms.append(A.FancyPCA(alpha=0.1, p=1.0))
    _WORKER.update(x=np.load(path, mmap_mode="r"), transform=A.Compose(transforms), batch=BATCH[size])


def _work(number):
    batch = _WORKER["x"][number * _WORKER["batch"] : (number + 1) * _WORKER["batch"]]
    return np.stack([_WORKER["transform"](image=image)["image"] for image in batch])


class AlbumentationsDataset:
    def __init__(self, x, size, second):
        import albumentations  # noqa: F401

        self.path = pathlib.Path(tempfile.mkdtemp()) / "x.npy"
        np.save(self.path, x)
        self.batches = -(-len(x) // BATCH[size])
        context = multiprocessing.get_context("spawn")
        self.pool = context.Pool(os.cpu_count(), _start_worker, (str(self.path), size, second))

    def __iter__(self):
        # A quarter of the bytes travel between processes if they become floats here.
        return (batch * np.float32(1 / 255) for batch in self.pool.imap(_work, range(self.batches)))

    def close(self):
        self.pool.terminate()
        self.path.unlink()


MAKERS = {
    "kregkit": kregkit_dataset,
    "one warp (V3)": one_warp_dataset,
    "keras.layers": keras_dataset,
    "tf.image": tf_image_dataset,
    "albumentations": AlbumentationsDataset,
}


def make(name, x, size, second):
    """Returns the contender's dataset, or the reason why there is none."""
    if name == "one warp (V3)" and not second:
        return "only with the second group"
    try:
        return MAKERS[name](x, size, second)
    except ImportError as error:
        return f"not installed ({error.name})"


def automatic_dataset(name, x, size):
    """Returns a dataset of one automatic augmentation: kregkit's two, or Keras's own."""
    import keras
    import tensorflow as tf

    from kregkit import data

    if name != "keras.layers.RandAugment":
        return data.pipeline(x, BATCH[size], [getattr(data, name)()], shuffle=False)
    layer = keras.layers.RandAugment(value_range=(0, 255), num_ops=2, factor=0.3)
    dataset = tf.data.Dataset.from_tensor_slices(x).batch(BATCH[size])
    dataset = dataset.map(lambda batch: layer(batch, training=True), num_parallel_calls=tf.data.AUTOTUNE)
    return dataset.prefetch(tf.data.AUTOTUNE)


def automatic(smoke, repeats):
    """Prints images per second of automatic augmentation, medians of interleaved passes, each from its start."""
    print(f"\nAutomatic augmentation, images per second on {os.cpu_count()} cores (times Keras's in brackets)")
    names = ("TrivialAugment", "RandAugment", "keras.layers.RandAugment")
    for size in (32, 224):
        # Both are measured over whole passes; Keras's over fewer images, as its passes take so long.
        nums = {name: (AUTOMATIC_NUM[size] if "." in name else NUM[size]) // (8 if smoke else 1) for name in names}
        datasets = {name: automatic_dataset(name, images(size, num), size) for name, num in nums.items()}
        rates = {name: [] for name in names}
        for turn in range(1 + repeats):
            for name, dataset in datasets.items():
                seconds, _ = epoch_seconds(dataset)
                if turn:
                    rates[name].append(nums[name] / seconds)
        medians = {name: statistics.median(own) for name, own in rates.items()}
        for name, rate in medians.items():
            print(f"  {size}x{size} {name:26s}{rate:10,.1f} ({rate / medians[names[-1]]:.1f})", flush=True)


def epoch_seconds(dataset):
    """Returns the seconds of a pass, and those to its first batch."""
    start, first = time.perf_counter(), None
    for _ in dataset:
        first = first or time.perf_counter() - start
    return time.perf_counter() - start, first


def throughput(size, second, repeats, num):
    """Returns images per second of each contender, and milliseconds to a first batch: medians of interleaved passes."""
    x = images(size, num)
    datasets = {name: make(name, x, size, second) for name in CONTENDERS}
    running = {name: dataset for name, dataset in datasets.items() if not isinstance(dataset, str)}
    rates, starts = {name: [] for name in running}, {name: [] for name in running}
    for dataset in running.values():
        epoch_seconds(dataset)
    for _ in range(repeats):
        for name, dataset in running.items():
            seconds, first = epoch_seconds(dataset)
            rates[name].append(num / seconds)
            starts[name].append(1000 * first)
    for dataset in running.values():
        if hasattr(dataset, "close"):
            dataset.close()
    return {
        name: (statistics.median(rates[name]), statistics.median(starts[name])) if name in rates else datasets[name]
        for name in datasets
    }


def memory(name, size, second, num):
    """Prints the megabytes that a pass adds to a process that holds the images. Runs alone in a process.

    Processes of its own that a contender starts count whole.
    """
    x = images(size, num)
    if name != "albumentations":
        import kregkit.data  # noqa: F401
    before = resident("VmRSS")
    forget_peak()
    dataset = make(name, x, size, second)
    if isinstance(dataset, str):
        print(json.dumps(dataset))
        return
    for _ in range(2):
        epoch_seconds(dataset)
    added = resident("VmHWM") - before
    if hasattr(dataset, "close"):
        dataset.close()
        dataset.pool.join()
        added += os.cpu_count() * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(json.dumps(round(added)))


def training(smoke):
    """Returns steps per second of a small CNN at 32x32: on one batch kept ready, unaugmented, and augmented."""
    import keras
    import tensorflow as tf

    # Not above: the processes of albumentations would load Keras with it.
    from _interleave import interleaved_fits, median_ratio

    from kregkit import data

    num = 512 if smoke else 8192
    x = images(32, num)
    y = np.arange(num) % 10
    ready = tf.data.Dataset.from_tensors(next(iter(data.pipeline((x, y), 128)))).repeat(num // 128)
    sets = {
        "one batch, kept ready": ready,
        "without augmentation": data.pipeline((x, y), 128),
        "first group": data.pipeline((x, y), 128, kregkit_operations(32, False, x)),
        "second group": data.pipeline((x, y), 128, kregkit_operations(32, True, x)),
    }

    def fit_on(dataset):
        layer = keras.layers
        model = keras.Sequential([
            keras.Input((32, 32, 3)),
            layer.Conv2D(32, 3, activation="relu"), layer.Conv2D(32, 3, strides=2, activation="relu"),
            layer.Conv2D(64, 3, activation="relu"), layer.GlobalAveragePooling2D(), layer.Dense(10),
        ])  # fmt: skip
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        return lambda turn, epochs: model.fit(dataset, epochs=epochs, callbacks=[turn], shuffle=False, verbose=0)

    fits = {name: fit_on(dataset) for name, dataset in sets.items()}
    seconds = interleaved_fits(fits, rounds=1 if smoke else 7, warmup=1)
    base = seconds["one batch, kept ready"]
    return {name: (num // 128 / statistics.median(own), median_ratio(base, own)) for name, own in seconds.items()}


def print_throughput(results, peaks):
    print(f"\nImages per second on {os.cpu_count()} cores (kregkit's multiple of each in brackets)")
    columns = [(size, second) for size in (32, 224) for second in (False, True)]
    print(f"{'':16s}" + "".join(f"{f'{s}x{s} ' + ('second' if g else 'first'):>20s}" for s, g in columns)
          + f"{'MB added at 224':>18s}")  # fmt: skip
    for name in CONTENDERS:
        cells = []
        for column in columns:
            found, ours = results[column][name], results[column]["kregkit"][0]
            cells.append("-" if isinstance(found, str) else f"{found[0]:,.0f} ({ours / found[0]:4.1f})")
        note = next((r for r in (results[c][name] for c in columns) if isinstance(r, str) and "installed" in r), "")
        print(
            f"{name:16s}" + "".join(f"{cell:>20s}" for cell in cells) + f"{peaks.get(name, '-')!s:>18s}" + f"  {note}"
        )
    for size in (32, 224):
        first, second = (results[size, group]["kregkit"][0] for group in (False, True))
        print(f"{size}x{size}: the second group takes {first / second:.2f} times the time of the first")
    print("\nMilliseconds to the first batch of a pass")
    for name in CONTENDERS:
        cells = ["-" if isinstance(results[c][name], str) else f"{results[c][name][1]:.0f}" for c in columns]
        print(f"{name:16s}" + "".join(f"{cell:>20s}" for cell in cells))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="seconds, not minutes")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--no-training", action="store_true")
    parser.add_argument("--no-throughput", action="store_true")
    parser.add_argument("--no-photographs", action="store_true")
    parser.add_argument("--no-passes", action="store_true")
    parser.add_argument("--no-automatic", action="store_true")
    parser.add_argument("--memory-of", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        name, size, second = arguments.memory_of
        memory(name, int(size), second == "True", 64 if arguments.smoke else MEMORY_NUM)
        return
    repeats = 1 if arguments.smoke else REPEATS
    results = {}
    for size in () if arguments.no_throughput else (32, 224):
        num = 2 * BATCH[size] if arguments.smoke else NUM[size]
        for second in (False, True):
            results[size, second] = throughput(size, second, repeats, num)
    peaks = {}
    if not arguments.no_memory:
        for name in CONTENDERS[:1] if arguments.smoke else CONTENDERS:
            command = [sys.executable, __file__, "--memory-of", name, "224", "True"]
            output = subprocess.run(
                command + ["--smoke"] * arguments.smoke, capture_output=True, text=True, env=os.environ
            ).stdout.strip()
            peaks[name] = json.loads(output.splitlines()[-1]) if output else "failed"
    if results:
        print_throughput(results, peaks)
    elif peaks:
        print("MB added at 224x224:", ", ".join(f"{name} {peak}" for name, peak in peaks.items()))
    if not arguments.no_photographs:
        print_photographs(arguments.smoke)
    if not arguments.no_passes:
        print_passes(
            arguments.smoke,
            images,
            lambda x, size: kregkit_dataset(x, size, False),
            lambda x, size: tf_image_dataset(x, size, False),
        )
    if not arguments.no_automatic:
        automatic(arguments.smoke, min(repeats, 2))
    if not arguments.no_training:
        print("\nTraining a small CNN at 32x32, batch 128, steps per second")
        for name, (rate, ratio) in training(arguments.smoke).items():
            print(f"  {name:24s}{rate:8.1f}   {ratio:.2f}")


if __name__ == "__main__":
    main()
