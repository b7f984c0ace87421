"""Registered classes of rooms that `import kregkit` doesn't import."""

import importlib

import keras


class LateClass:
    """Stands in Keras's registry for a class until its module is imported, which the first file that names it does.

    Keras finds what a `.keras` file names among the registered classes alone, and the rooms that work on TensorFlow are
    imported when they are first used.

    Args:
        module: String, such as `"kregkit.data.augment_layer"`.
        name: String, the class's name.
    """

    def __init__(self, module, name):
        self.module, self.name = module, name

    def from_config(self, config, **arguments):
        """Imports the module, whose class takes the place of its stand-in, and makes the object."""
        return getattr(importlib.import_module(self.module), self.name).from_config(config, **arguments)


def register_late(classes):
    """Registers stand-ins for the classes of `{module: name}`, where they aren't registered yet."""
    for module, name in classes.items():
        keras.saving.get_custom_objects().setdefault(f"kregkit>{name}", LateClass(module, name))
