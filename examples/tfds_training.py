"""From a TFDS data set to `model.fit`, with augmentation and a progress bar.

    python examples/tfds_training.py [--dataset cifar10] [--epochs 15] [--smoke]

The default data set, the digits, is prepared on this machine on first use; any other TFDS image set works by its name,
where it is prepared or there is a network to prepare it.
"""

import argparse

import keras
import tensorflow as tf

from kregkit import data

BATCH_SIZE = 64
EPOCHS = 15
SEED = 0
SHORT_SIDE = 32


def operations(size, channels):
    """Returns what suits the images: digits must not be mirrored, photographs may."""
    geometry = [data.RandomCrop(max(1, size // 8)), data.RandomRotation(10), data.RandomStretch(0.1)]
    if channels == 1:
        return [*geometry, data.ColorJitter(0.2, 0.2)]
    return [data.RandomFlip(), *geometry, data.ColorJitter(0.3, 0.3, 0.3)]


def small_cnn(shape, num_classes):
    model = keras.Sequential([keras.Input(shape)])
    for filters in (32, 64):
        for _ in range(2):
            model.add(keras.layers.Conv2D(filters, 3, padding="same", use_bias=False))
            model.add(keras.layers.BatchNormalization())
            model.add(keras.layers.ReLU())
        model.add(keras.layers.MaxPooling2D())
    model.add(keras.layers.GlobalAveragePooling2D())
    model.add(keras.layers.Dense(num_classes))
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="digits", help="any TFDS name")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--smoke", action="store_true", help="one epoch on a part of the data")
    arguments = parser.parse_args()
    epochs = 1 if arguments.smoke else arguments.epochs
    keras.utils.set_random_seed(SEED)

    train_split, test_split = ("train[:10%]", "test[:20%]") if arguments.smoke else ("train", "test")
    train, test = (data.load(arguments.dataset, split) for split in (train_split, test_split))
    shape = train.element_spec[0].shape
    if None in shape:
        # Photographs of many sizes are brought to one before they are kept in memory.
        train, test = (
            each.map(lambda x, y: (tf.cast(tf.image.resize(x, (SHORT_SIDE, SHORT_SIDE)), tf.uint8), y))
            for each in (train, test)
        )
        shape = train.element_spec[0].shape
    num_classes = 1 + max(int(label) for _, label in train)
    chain = operations(min(shape[0], shape[1]), shape[-1])
    print(f"{arguments.dataset}: {len(train)} images {tuple(shape)}, {num_classes} classes; {chain}")

    augmented = data.pipeline(train, BATCH_SIZE, chain, seed=SEED, cache=True)
    plain = data.pipeline(train, BATCH_SIZE, seed=SEED, cache=True)
    validation = data.pipeline(test, 256, training=False, cache=True)
    scores = {}
    for name, dataset in (("without augmentation", plain), ("with augmentation", augmented)):
        print(f"\nTraining {name}")
        keras.utils.set_random_seed(SEED)
        model = small_cnn(shape, num_classes)
        steps = len(dataset) * epochs
        model.compile(
            keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.05, steps), momentum=0.9, nesterov=True),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
        model.fit(dataset, epochs=epochs, validation_data=validation, shuffle=False)
        scores[name] = model.evaluate(validation, verbose=0)[1]
    print()
    for name, accuracy in scores.items():
        print(f"Test error {name}: {1 - accuracy:.2%}")


if __name__ == "__main__":
    main()
