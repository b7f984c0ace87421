"""`kregkit.inference.noise.random_numbers`: the same numbers however draws and examples are divided into passes."""

import numpy as np
import pytest
import tensorflow as tf

from kregkit.inference.noise.random_numbers import Draws, NoiseSource, NotFoldableError


def draws(numbers, start, batch, seed=0, shared=False):
    return Draws(seed, tf.constant(numbers, "int64"), batch, tf.constant(start, "int64"), shared)


class TestDraws:
    @pytest.mark.parametrize("method", ["uniform", "normal"])
    def test_numbers_belong_to_draw_and_example(self, method):
        """Six examples and four draws at once, or any part of them: five numbers each, no multiple of Philox's four."""
        whole = getattr(draws([0, 1, 2, 3], 0, 6), method)(7, [24, 5]).numpy().reshape(4, 6, 5)
        part = getattr(draws([2, 3], 4, 2), method)(7, [4, 5]).numpy().reshape(2, 2, 5)
        np.testing.assert_array_equal(part, whole[2:, 4:])
        assert len(np.unique(whole)) == whole.size

    def test_layers_seeds_and_uses_have_their_own(self):
        one = draws([0], 0, 3)
        numbers = [one.uniform(0, [3, 4]), one.uniform(0, [3, 4]), one.uniform(1, [3, 4])]
        numbers.append(draws([0], 0, 3, seed=1).uniform(0, [3, 4]))
        assert len(np.unique(numbers)) == 48

    def test_shared_by_all_examples(self):
        numbers = draws([0, 1], 3, 4, shared=True).uniform(0, [8, 2]).numpy().reshape(2, 4, 2)
        np.testing.assert_array_equal(numbers, np.repeat(numbers[:, :1], 4, axis=1))
        np.testing.assert_array_equal(numbers[0, 0], draws([0], 0, 1, shared=True).uniform(0, [1, 2])[0])
        assert len(np.unique(numbers)) == 4

    def test_noise_shapes_and_windows(self):
        numbers = draws([0, 1], 0, 3).uniform(0, [6, 4, 2], [None, 1, None])
        assert numbers.shape == (6, 1, 2)
        # Each example's two windows have numbers of their own, wherever the batch begins.
        windows = draws([5], 0, 3).uniform(0, [6, 2]).numpy().reshape(3, 2, 2)
        np.testing.assert_array_equal(draws([5], 2, 1).uniform(0, [2, 2]), windows[2])

    def test_keys(self):
        keys = [draws([d], start, 2).key_of_batch(3) for d in (0, 1, 1 << 40) for start in (0, 2)]
        assert len({tuple(key.numpy()) for key in keys}) == 6
        keys = [draws([d], start, 2).key(3) for d in (0, 1, 1 << 40) for start in (0, 2)]
        assert len({tuple(key.numpy()) for key in keys}) == 3
        with pytest.raises(NotFoldableError):
            draws([0, 1], 0, 2).key(3)


class TestNoiseSource:
    def test_numbers_of_the_examples(self):
        assert NoiseSource(draws([0, 1], 5, 3), 0).examples().numpy().tolist() == [5, 6, 7, 5, 6, 7]
        assert NoiseSource(draws([0], 5, 3, shared=True), 0).examples().numpy().tolist() == [0, 0, 0]

    def test_per_draw(self):
        source = NoiseSource(draws([3, 4], 5, 3), 0)
        numbers = source.uniform_per_draw((2, 2)).numpy()
        assert source.num_draws == 2 and numbers.shape == (2, 2, 2)
        np.testing.assert_array_equal(numbers[1], NoiseSource(draws([4], 0, 9), 0).uniform_per_draw((2, 2))[0])

    def test_a_shape_that_may_not_be_the_rows(self):
        """Five numbers for five rows may be one for each, or five features' for all: draws aren't folded."""
        with pytest.raises(NotFoldableError):
            NoiseSource(draws([0, 1], 0, 5), 0).uniform_of_unknown((10,))
        features = [NoiseSource(draws([2], start, 4), 0).uniform_of_unknown((5,)) for start in (0, 4)]
        np.testing.assert_array_equal(*features)
        assert NoiseSource(draws([2], 0, 4), 0).uniform_of_unknown(()).shape == ()

    def test_a_size_known_when_the_graph_runs_is_the_rows(self):
        @tf.function
        def numbers(x, size):
            return NoiseSource(Draws(0, tf.range(2, dtype="int64"), tf.shape(x)[0] // 2, 0), 0).uniform_of_unknown(
                (size, 3)
            )

        x = tf.zeros((8, 1))
        assert len(np.unique(numbers(x, tf.constant(8)))) == 24
        with pytest.raises(tf.errors.InvalidArgumentError, match="first axis of the shape of noise must be the batch"):
            numbers(x, tf.constant(5))
