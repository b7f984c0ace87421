"""The base class of kregkit's stochastic layers: a seed, and noise that can be drawn outside of training too."""

import keras
from keras import ops

from kregkit._core.checks import check_seed
from kregkit._core.written import Words
from kregkit.layers._backend import on_tensorflow
from kregkit.layers._hash import mixed_key


class _FixedKey(keras.random.SeedGenerator):
    """A key for one draw. `keras.random` accepts keys from generators only."""

    def __init__(self, value):  # No state of its own, hence no call of the parent.
        self.value = value

    def next(self, ordered=True):
        return self.value


class NoisyLayer(Words, keras.layers.Layer):
    """A layer whose noise is drawn while training, or whenever `draw_call` is called; see `kregkit.layers`.

    A subclass defines `call` and `draw_call` with one signature, and names in `wrapped` those of its arguments that
    are layers, or None. A subclass whose noise has a known mean also defines `expected_call`, with the same signature.

    Args:
        seed: Integer or None, the argument of the layer's `keras.random.SeedGenerator`.

    Attributes:
        noise_source: None, or where the noise comes from while `kregkit.inference` averages it: see `kregkit.layers`.
        rate_attribute: None, or the name of the attribute that holds how much noise there is: `"rate"` or
            `"survival_probability"`. `callbacks.NoiseSchedule` puts a scalar float32 tensor there while it traces the
            train step; everything else reads a float.
    """

    wrapped: tuple[str, ...] = ()
    noise_source = None
    rate_attribute: str | None = None

    def __init__(self, seed=None, **kwargs):
        super().__init__(**kwargs)
        self.seed = check_seed("seed", seed)
        self.seed_generator = keras.random.SeedGenerator(seed)

    def draw_call(self, *args, **kwargs):
        """Does what `call` does in training: always draws noise. `training` is only passed to nested layers."""
        raise NotImplementedError

    def next_key(self, per_replica=True):
        """Returns the key `(2,)` of the next draw.

        Under `tf.distribute`, generators give the same numbers on every replica; noise per example wants others.
        """
        key = self.seed_generator.next()
        tensorflow = on_tensorflow()
        if per_replica and tensorflow is not None and tensorflow.num_replicas() > 1:
            number = tensorflow.replica_number()
            key = key if number is None else ops.cast(mixed_key(key, number), key.dtype)
        return key

    def uniform(self, shape, per_replica=True):
        """Returns float32 noise in [0, 1): half precision has too few values to compare with a probability."""
        return keras.random.uniform(shape, dtype="float32", seed=_FixedKey(self.next_key(per_replica)))

    def get_config(self):
        layers = {name: keras.saving.serialize_keras_object(getattr(self, name)) for name in self.wrapped}
        return {**super().get_config(), "seed": self.seed, **layers}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        layers = {
            name: keras.saving.deserialize_keras_object(config[name], custom_objects=custom_objects)
            for name in cls.wrapped
        }
        return cls(**{**config, **layers})


def coin(uniform, probability):
    """Returns booleans that are true with `probability`."""
    return ops.less(uniform, probability)


def is_surely(rate, value):
    """Returns whether a rate is a number that equals `value`; a scheduled one, which is a tensor, may be anything."""
    return isinstance(rate, (int, float)) and rate == value
