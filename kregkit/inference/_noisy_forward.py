"""A model as a pure function of weights, inputs and draws."""

import keras
import tensorflow as tf

from kregkit.inference._cut import Cut, can_be_cut, largest_tensor
from kregkit.inference._draws import Draws
from kregkit.inference._noise import drawing, expecting
from kregkit.inference._views import repeated

# Rows of a pass if no batch size is given: so many numbers in the largest activation (8 MB), within bounds. More rows
# spread the cost of a pass over more draws, until activations leave the processor's caches.
_NUMBERS, _ROWS = 2**21, (32, 4096)


def default_rows(largest):
    """Returns how many rows a pass has whose largest activation holds so many numbers per row."""
    return min(max(_NUMBERS // largest, _ROWS[0]), _ROWS[1])


class NoisyForward:
    """A model in inference mode but for its noise, as `forward(values, common, samples, start, batch)`.

    `common` is what all draws have in common, which `once` computes: in a functional model everything that no noise
    reaches, elsewhere the inputs. Each function is traced once per shape.

    Args:
        forward: A `Forward`.
        places: The noisy layers, as `select_noise` gives them.
        plan: A `Plan`.
    """

    def __init__(self, forward, places, plan):
        self.forward, self.places, self.plan = forward, places, plan
        self.analytic = plan.draws == "analytic"
        self._cut = None
        if places and not self.analytic and can_be_cut(forward.model):
            cut = Cut(forward.model, places)
            self._cut = cut if cut.by_examples else None
        self._traced = {}

    def default_rows(self, views):
        """Returns how many rows a pass has if no batch size is given, by what is computed for each draw."""
        whole = views or self._cut is None
        return default_rows(largest_tensor([self.forward.model]) if whole else self._cut.largest)

    def once(self, values, inputs):
        """Returns what all draws for a batch of inputs have in common: a list of tensors and their masks."""
        if self._cut is None:
            return inputs
        return self._compiled("once", self._once)(values, inputs)

    def __call__(self, values, common, samples, start, batch):
        """Returns outputs and masks for all draws of a batch, folded, from what `once` returned."""
        return self._compiled(samples.shape[0], self._draw)(values, common, samples, start, batch)

    def of_views(self, values, inputs, samples, start, batch):
        """Returns outputs and masks for inputs that already hold one version per draw."""
        return self._compiled(-samples.shape[0], self._draw_views)(values, inputs, samples, start, batch)

    def _compiled(self, name, function):
        if self.forward.model.run_eagerly:
            return function
        # One function per number of draws, which must stay static when the batch's size doesn't.
        if name not in self._traced:
            self._traced[name] = tf.function(function, autograph=False, reduce_retracing=True)
        return self._traced[name]

    def _weights(self, values):
        return keras.StatelessScope(state_mapping=list(zip(self.forward.variables, values)))

    def _once(self, values, inputs):
        with self._weights(values):
            return _with_masks(self._cut.before(inputs))

    def _draw(self, values, common, samples, start, batch):
        k = samples.shape[0]
        if self._cut is None:
            inputs = keras.tree.map_structure(lambda x: repeated(x, k), common)
            return self._draw_views(values, inputs, samples, start, batch)
        tensors, masks = common
        for tensor, mask in zip(tensors, masks):
            if mask is not None:
                tensor._keras_mask = mask
        draws = Draws(self.plan.seed, samples, batch, start, self.plan.shared)
        with self._weights(values), drawing(self.forward.model, self.places, draws, self._cut.moved):
            return _with_masks(self._cut.after(tensors, draws))

    def _draw_views(self, values, inputs, samples, start, batch):
        model = self.forward.model
        draws = Draws(self.plan.seed, samples, batch, start, self.plan.shared)
        noise = expecting(model, self.places) if self.analytic else drawing(model, self.places, draws, {})
        with self._weights(values), noise:
            return _with_masks(model(inputs, **self.forward.arguments))


def _with_masks(outputs):
    # A function's results are new tensors, so masks travel beside them.
    return outputs, keras.tree.map_structure(lambda y: getattr(y, "_keras_mask", None), outputs)
