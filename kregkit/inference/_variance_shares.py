"""Which share of the predictions' variance each source of randomness has: the samples it takes, and the estimate.

Sources are nested: members, then the draws of a member's weights, then views, then noise. By the law of total variance

    Var Y = Var_m E[Y | m] + E Var_w E[Y | m, w] + E Var_v E[Y | m, w, v] + E Var[Y | m, w, v]
            members          weights               views                   noise

so that the parts add up to the whole, and what two sources do only together counts for the inner one. Each part is
estimated without bias: the variance that the sampling of the inner sources leaves in a mean is taken off it. For the
noise's part two predictions must differ in noise alone. Where the draws hold none, there are samples that the mean is
not taken over.
"""

import dataclasses

import tensorflow as tf

from kregkit.inference._moments import Moments, like

SOURCES = ("noise", "views", "members", "weights")
# Where the numbers of samples begin that the mean isn't taken over.
_APART = 2**30


@dataclasses.dataclass(frozen=True)
class SampleOrder:
    """Which view and which noise each sample of a run has, and which samples count in the mean.

    The mean's samples are draws times views, the views in turn. With `paired`, samples `2 i` and `2 i + 1` have the
    same view and other noise; the mean's samples are then the same ones in another order.

    Args:
        draws: Integer, how many draws the mean is taken over.
        num_views: Integer.
        endless: Boolean, whether each draw has a view of its own; `num_views` is 1 then.
        paired: Boolean.
        twice: Boolean, whether there are two draws at least, although the mean may be of one.
        first_view: Integer, of `endless` views the first one's number.
    """

    draws: int
    num_views: int = 1
    endless: bool = False
    paired: bool = False
    twice: bool = False
    first_view: int = 0

    @property
    def samples(self):
        """Integer, how many samples the mean is taken over."""
        return self.draws * self.num_views

    @property
    def per_draw(self):
        """Integer, samples of one draw, those included that don't count."""
        return 2 if self.paired and self.endless else self.num_views

    @property
    def total(self):
        """Integer, how many samples there are."""
        draws = max(self.draws, 2) if self.twice else self.draws
        return (draws + (draws % 2 if self.paired and not self.endless else 0)) * self.per_draw

    def views(self, index):
        """Returns the numbers of the views of samples `index`, an int64 tensor."""
        if not self.endless:
            return self._number(index)
        draw = index // self.per_draw
        return draw + self.first_view + tf.cast(draw >= self.draws, "int64") * _APART

    def noise(self, index):
        """Returns the numbers of the noise of samples `index`."""
        if self.paired and self.endless:
            return index // 2 + index % 2 * _APART
        return self._number(index)

    def counts(self, index):
        """Returns whether the mean is taken over samples `index`."""
        if self.paired and self.endless:
            return tf.logical_and(index % 2 == 0, index // 2 < self.draws)
        return self._number(index) < self.samples

    def _number(self, index):
        """Returns where the samples stand in the order of draws times views."""
        if not self.paired or self.endless:
            return index
        pair = index // 2
        return (2 * (pair // self.num_views) + index % 2) * self.num_views + pair % self.num_views


class ShareMoments:
    """What `variance_shares` needs of a run, as running means; as `Moments`, of all samples.

    Args:
        paired: Boolean, as in `SampleOrder`.
    """

    def __init__(self, paired):
        self.paired = paired
        self._all, self._noise = Moments(squares=True), Moments(squares=False)

    def of_pass(self, p, weight):
        """Returns the state after one pass: `p` is `(k, batch, ...)`, `weight` `(k, batch)` or more of its axes."""
        state = {"all": self._all.of_pass(p, weight), "count": tf.reduce_sum(weight, 0)}
        if not self.paired:
            return state
        both = tf.minimum(weight[::2], weight[1::2])
        noise = self._noise.of_pass((p[::2] - p[1::2]) ** 2 / 2, both)
        return {**state, "noise": noise, "pairs": tf.reduce_sum(both, 0)}

    def merge(self, state, other):
        """Returns the state after both."""
        merged = {
            "all": self._all.merge(state["all"], state["count"], other["all"], other["count"]),
            "count": state["count"] + other["count"],
        }
        if not self.paired:
            return merged
        noise = self._noise.merge(state["noise"], state["pairs"], other["noise"], other["pairs"])
        return {**merged, "noise": noise, "pairs": state["pairs"] + other["pairs"]}


@dataclasses.dataclass(frozen=True)
class RunSource:
    """Where a run's predictions come from.

    Args:
        member: Integer, the ensemble's member.
        draw: Integer, the draw of its weights.
        order: `SampleOrder`.
        noisy: Boolean, whether the run draws noise.
        viewed: Boolean, whether it has views.
    """

    member: int
    draw: int
    order: SampleOrder
    noisy: bool
    viewed: bool


@dataclasses.dataclass(frozen=True)
class _Level:
    """A mean, the parts of the variance below it, and the variance that sampling leaves in it."""

    weight: float
    mean: object
    noise: object
    views: object
    weights: object
    error: object


def variance_shares(runs, index, sources, drawn_source):
    """Returns a dictionary from each of `sources` to its share of the variance, per decision.

    Of a softmax the variance is the sum over the classes. Shares are 0 where nothing varies.

    Args:
        runs, index, sources, drawn_source: As in `variance_parts`.
    """
    parts = variance_parts(runs, index, sources, drawn_source)
    parts = {name: tf.maximum(part, 0.0) for name, part in parts.items()}
    total = tf.add_n(list(parts.values()))
    return {name: tf.math.divide_no_nan(part, total) for name, part in parts.items()}


def variance_parts(runs, index, sources, drawn_source):
    """Returns a dictionary from each of `sources` to an estimate without bias of its part, which may be negative.

    Args:
        runs: List of `(weight, RunResult)`; the weights sum to 1.
        index: Integer, which of the outputs.
        sources: Those of `SOURCES` that are averaged over.
        drawn_source: What differs between the draws of a member: `"weights"`, or `"noise"` for the statistics of
            mini-batches.
    """
    task = runs[0][1].tasks[index]
    by_member = {}
    for weight, run in runs:
        by_member.setdefault(run.source.member, {}).setdefault(run.source.draw, []).append((weight, run))

    def decision(squares):
        return tf.reduce_sum(squares, axis=-1) if task.link == "softmax" else squares

    members = [
        _of_draws([_of_views(parts, index, task, decision) for parts in draws.values()], decision)
        for draws in by_member.values()
    ]
    mean = tf.add_n([one.weight * one.mean for one in members])
    between = [one.weight * decision((one.mean - mean) ** 2) for one in members]
    left = [one.weight * (1.0 - one.weight) * one.error for one in members]
    parts = {name: tf.add_n([one.weight * getattr(one, name) for one in members]) for name in ("noise", "views")}
    parts |= {"members": tf.add_n(between) - tf.add_n(left), "weights": tf.zeros_like(parts["noise"])}
    parts[drawn_source] += tf.add_n([one.weight * one.weights for one in members])
    return {name: parts[name] for name in sources}


def _of_views(parts, index, task, decision):
    """Returns the `_Level` of one draw of one member, from `(weight, RunResult)` of its views' groups."""
    weight = sum(one for one, _ in parts)
    source = parts[0][1].source
    fractions = [one / weight for one, _ in parts]
    states = [run.states[index]["shares"] for _, run in parts]
    counts, variances, noises = [], [], []
    for state in states:
        _, squares = state["all"]
        # Of positions that no view shows, the count is near 0.
        count = tf.maximum(like(state["count"], squares), 1.0)
        counts.append(tf.reduce_max(count, axis=-1) if task.link == "softmax" else count)
        variances.append(tf.math.divide_no_nan(decision(squares), counts[-1]))
        noises.append(decision(state["noise"][0]) if source.order.paired else tf.zeros_like(variances[-1]))
    mean = tf.add_n([part * state["all"][0] for part, state in zip(fractions, states)])
    count, noise = tf.add_n(counts), tf.add_n([part * one for part, one in zip(fractions, noises)])
    variance = tf.add_n([
        part * (one + decision((state["all"][0] - mean) ** 2))
        for part, one, state in zip(fractions, variances, states)
    ])  # fmt: skip
    none = tf.zeros_like(noise)
    if not source.viewed:
        noise = tf.math.divide_no_nan(variance * count, count - 1.0) if source.noisy else none
        return _Level(weight, mean, noise, none, none, noise / count)
    if source.order.endless:
        # Each view has one sample, or a pair.
        size = source.order.per_draw
        num = count / size
        error = tf.math.divide_no_nan(variance - noise * (size - 1.0) / size, num - 1.0)
        return _Level(weight, mean, noise, error * num - noise / size, none, error)
    return _Level(weight, mean, noise, variance - noise * (1.0 - 1.0 / count), none, noise / count)


def _of_draws(draws, decision):
    """Returns the `_Level` of one member, from those of the draws of its weights."""
    weight, num = sum(one.weight for one in draws), len(draws)
    if num == 1:
        return draws[0]
    mean, noise, views, error = (
        tf.add_n([getattr(one, name) for one in draws]) / num for name in ("mean", "noise", "views", "error")
    )
    between = tf.add_n([decision((one.mean - mean) ** 2) for one in draws]) / (num - 1)
    return _Level(weight, mean, noise, views, between - error, between / num)
