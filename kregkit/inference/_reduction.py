"""How several predictions of one thing become one: a mean in some space, and the way back."""

import keras
from keras import ops

from kregkit._core.tasks import Task

REDUCTIONS = ("probabilities", "logits", "geometric")


def common_task(tasks):
    """Returns the form in which several members' predictions of one output are given back: theirs, if they agree."""
    first = tasks[0]
    if all(task == first for task in tasks):
        return first
    if any(task.link != first.link for task in tasks):
        raise ValueError(f"Members' outputs differ in what they mean. Received: tasks={tasks}")
    return Task("probabilities", first.link)


# Above the smallest normal float32, which some machines flush to zero.
_TINY = 1e-37


def _log(probability):
    return ops.log(ops.maximum(probability, _TINY))


class Reduction:
    """The mean of several predictions of one output: `finish(mean over members of transform(prediction))`.

    Being a plain mean, it can be summed up over any number of members in constant memory. With `p_m` a member's
    probabilities and `z_m` its logits,

        "probabilities"  p = mean p_m
        "geometric"      p = softmax(mean log p_m)
        "logits"         z = mean z_m

    The last two are the same distribution; they differ in that "geometric" gives logits back normalised. Values are
    always averaged as they are. Everything is computed in float32 at least.

    Args:
        reduce: One of `REDUCTIONS`.
        task: The `Task` of the result. Logits are given back as logits: `log p`, or `log p - log(1 - p)`.
    """

    def __init__(self, reduce, task):
        self.reduce = reduce
        self.task = task
        # A logit of p near 1 needs 1 - p, which rounding has eaten; so both are averaged.
        self.paired = reduce == "probabilities" and task == Task("logits", "sigmoid")

    def transform(self, y, task):
        """Returns what is averaged, from a prediction `y` that means `task`."""
        y = ops.cast(y, keras.backend.result_type(y.dtype, "float32"))
        if task.kind == "values":
            return y
        logits = task.kind == "logits"
        if self.reduce == "probabilities":
            if self.paired:
                return ops.stack([ops.sigmoid(y), ops.sigmoid(-y)], axis=-1)
            return probabilities(y, task)
        if task.link == "sigmoid":
            return y if logits else _log(y) - _log(1.0 - y)
        if not logits:
            return _log(y)
        return ops.log_softmax(y, axis=-1) if self.reduce == "geometric" else y

    def finish(self, mean):
        """Returns the result, in the form of `self.task`."""
        kind, link = self.task.kind, self.task.link
        if kind == "values":
            return mean
        if self.reduce == "probabilities":
            if self.paired:
                return _log(mean[..., 0]) - _log(mean[..., 1])
            return mean if kind == "probabilities" else _log(mean)
        if link == "sigmoid":
            return mean if kind == "logits" else ops.sigmoid(mean)
        if kind == "probabilities":
            return ops.softmax(mean, axis=-1)
        return ops.log_softmax(mean, axis=-1) if self.reduce == "geometric" else mean


def probabilities(y, task):
    """Returns the probabilities that a prediction `y` stands for."""
    if task.kind != "logits":
        return y
    return ops.softmax(y, axis=-1) if task.link == "softmax" else ops.sigmoid(y)
