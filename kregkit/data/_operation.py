"""What every augmentation operation is: arguments, a number of uniform draws, and a kind that says how it fuses."""

import inspect

import keras


class Operation:
    """Base class of the operations. A subclass stores each argument under its own name and says its number of draws.

    `operation(images, key)` applies it alone; `kregkit.data.Augment` applies several and fuses them.
    """

    num_draws = 0
    # Preprocessing isn't random: it runs at test time too.
    random = True

    def __call__(self, images, key=0, **arguments):
        """Applies this operation alone: `Augment([self])(images, key, **arguments)`."""
        from kregkit.data.augment import Augment

        return Augment([self])(images, key, **arguments)

    def get_config(self):
        names = list(inspect.signature(type(self).__init__).parameters)[1:]
        return {name: getattr(self, name) for name in names}

    @classmethod
    def from_config(cls, config):
        return cls(**config)

    def __repr__(self):
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.get_config().items())
        return f"{type(self).__name__}({arguments})"


def check_range(name, value, low, high):
    """Returns `(-value, value)` for a number, or the pair itself, within `[low, high]` and in order."""
    pair = (-value, value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value
    good = isinstance(pair, (tuple, list)) and len(pair) == 2
    good = good and all(isinstance(end, (int, float)) and low <= end <= high for end in pair) and pair[0] <= pair[1]
    if not good:
        raise ValueError(
            f"`{name}` must be a number, or a pair of numbers in order, in [{low:g}, {high:g}]. "
            f"Received: {name}={value!r}"
        )
    return float(pair[0]), float(pair[1])


register = keras.saving.register_keras_serializable(package="kregkit")
