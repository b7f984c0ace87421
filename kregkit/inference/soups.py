"""One model from several: the mean of weights that lie in one basin."""

import pathlib
import warnings

import keras
import numpy as np

from kregkit._core import rules
from kregkit._core.backends import require_tensorflow
from kregkit._core.checks import check_boolean, check_data, check_number
from kregkit._core.weights import swapped
from kregkit.inference._architecture import current_values
from kregkit.inference._predictor import Predictor
from kregkit.inference._saved import rebuilt
from kregkit.inference._weight_evaluator import WeightEvaluator, check_same_architecture, warn_of_statistics
from kregkit.inference.ensemble import Ensemble
from kregkit.inference.loss_lines import LossAlong, walked


class DifferentBasinsError(ValueError):
    """The loss rises between the weights of two models, so that they can't be averaged.

    Args:
        message: String.
        line: The `LossAlong` between them.
    """

    def __init__(self, message: str, line: LossAlong) -> None:
        super().__init__(message)
        self.line = line


@rules.checked(
    validation=rules.data,
    data=rules.optional(rules.data),
    model=rules.optional(rules.model),
    return_members=rules.boolean,
)
def soup(
    members: object,
    validation: object,
    greedy: bool = True,
    data: object = None,
    model: keras.Model | None = None,
    tolerance: float = 0.1,
    batch_size: int | None = None,
    return_members: bool = False,
) -> keras.Model:
    """Averages the weights of models that lie in one basin, into one model that costs no more than each of them.

    Members of one training (snapshots, late epochs) or of several fine-tunings of the same weights often lie in one
    basin. Those that were trained independently don't: their units are permuted, and the mean of their weights is
    no model at all. So the straight lines from the best member to all others are walked first, and it is an error
    where the loss in between rises.

    Only two copies of the weights are held beside the members', whatever their number.

    Args:
        members: List of built Keras models of the same architecture; an `Ensemble`; or a list of `.weights.h5` files,
            read one at a time into `model`. None is changed.
        validation: `(x, y)` or `(x, y, sample_weight)` of arrays, or a data set of such batches that can be read again.
        greedy: Boolean. `True` goes through the members from the best to the worst and keeps those with which the
            mean's loss on `validation` doesn't get worse, so that the soup is never worse there than the best member;
            `False` takes the mean of all. Defaults to `True`.
        data: Training inputs, on which BatchNormalization's statistics are measured anew for each mean.
        model: The built model whose weights the files hold; of a list of files only. It is left as it is.
        tolerance: Float >= 0, by what fraction of the worse end's loss it may rise in between. Defaults to 0.1.
        batch_size: Integer, for arrays. Defaults to 32.
        return_members: Boolean, whether to return `(model, indices)`, the indices of the members that were kept, from
            the best on. Defaults to `False`.

    Returns:
        A new Keras model, compiled with the members' loss and metrics if they have any.

    Raises:
        DifferentBasinsError: The loss rises between two members. It is a `ValueError` that draws the line, and holds
            it as its `line`.
        ValueError: The members differ in architecture, an argument is none of these, or `validation` differs from pass
            to pass.

    Example:

    >>> import keras, numpy as np
    >>> def line(slope):
    ...     model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    ...     model.compile(loss="mse")
    ...     model.layers[0].kernel.assign([[slope]])
    ...     return model
    >>> x = np.ones((4, 1))
    >>> mean, kept = soup([line(0.6), line(1.3), line(9.0)], (x, x), return_members=True)
    >>> mean.layers[0].kernel.numpy().astype("float64").round(2).tolist(), kept
    ([[0.95]], [1, 0])

    References: [Wortsman et al., 2022](https://arxiv.org/abs/2203.05482),
    [Izmailov et al., 2018](https://arxiv.org/abs/1803.05407)
    """
    require_tensorflow("soup")
    check_data("validation", validation)
    check_boolean("greedy", greedy)
    check_number("tolerance", tolerance, 0)
    first, sources = _sources(members, model)
    evaluator = WeightEvaluator(first, validation, data, batch_size)
    warn_of_statistics(evaluator, "data")
    losses = [evaluator(source())[0] for source in sources]
    order = [int(index) for index in np.argsort(losses, kind="stable")]
    for index in order[1:]:
        line = walked(evaluator, sources[order[0]], sources[index], np.linspace(0.0, 1.0, 5))
        if not line.rise <= tolerance * max(line.losses[0], line.losses[-1]):
            raise DifferentBasinsError(
                f"The loss rises on the straight line from member {order[0]} to member {index}: they don't lie in one "
                "basin, and their weights can't be averaged. Average their predictions instead, Ensemble(members). "
                f"Models share a basin if they come from one training, or from the same trained weights.\n{line}\n"
                f"Received: tolerance={tolerance}, rise={line.rise:.4g}",
                line,
            )
    kept, mean, mean_loss = [order[0]], list(sources[order[0]]()), losses[order[0]]
    for index in order[1:]:
        loss = evaluator(_mean_with(mean, sources[index](), len(kept)))[0] if greedy else None
        if not greedy or loss <= mean_loss:
            # One weight at a time, so that there is no second copy.
            for place, value in enumerate(_mean_with(mean, sources[index](), len(kept))):
                mean[place] = value
            kept, mean_loss = [*kept, index], loss
    evaluator.assign(mean)
    result = _model_of(first, evaluator.weights())
    return (result, kept) if return_members else result


def _mean_with(mean, weights, count):
    """Yields the mean of `count` members with one more; integers, such as counters, stay those of the first."""
    for old, new in zip(mean, weights, strict=True):
        old, new = np.asarray(old), np.asarray(new)
        if keras.backend.is_float_dtype(old.dtype.name):
            old = (old.astype("float64") + (new.astype("float64") - old) / (count + 1)).astype(old.dtype)
        yield old


def _sources(members, model):
    """Returns a model of the members' architecture, and per member a callable that gives its weights."""
    if isinstance(members, Ensemble):
        models = [member.architecture.model for member in members.members]
        check_same_architecture(models)
        return models[0], [_of_member(member) for member in members.members]
    members = list(members) if isinstance(members, (list, tuple)) else [members]
    if members and all(isinstance(member, keras.Model) and member.built for member in members):
        check_same_architecture(members)
        return members[0], [lambda each=each: [weight.value for weight in each.weights] for each in members]
    files = members and all(isinstance(member, (str, pathlib.Path)) for member in members)
    if files and isinstance(model, keras.Model) and model.built:
        return model, [lambda path=path: _of_file(model, path) for path in members]
    raise ValueError(
        "`members` must be a list of built Keras models, an Ensemble, or a list of .weights.h5 files with `model`, the "
        f"built model that they are of. Received: members={members!r}, model={model!r}"
    )


def _of_member(member):
    places = {id(variable): place for place, variable in enumerate(member.architecture.variables)}
    indices = [places[id(weight)] for weight in member.architecture.model.weights]
    return lambda: [member.values[index] for index in indices]


def _of_file(model, path):
    with swapped(model.weights, [weight.value for weight in model.weights]), warnings.catch_warnings():
        # The files may hold optimizer state as well.
        warnings.filterwarnings("ignore", message="Skipping variable loading for optimizer")
        try:
            model.load_weights(path)
        except Exception as error:
            raise ValueError(
                f"File {str(path)!r} doesn't fit the model: {error}. Received: model={model.name!r}"
            ) from error
        return [np.array(weight.numpy()) for weight in model.weights]


def _model_of(model, weights):
    """Returns a new model like `model`, called `"soup"`, with these weights."""
    result = rebuilt(model, current_values(model), "soup")
    for variable, weight in zip(result.weights, weights, strict=True):
        variable.assign(weight)
    measures = Predictor([model])
    if measures._compile_arguments is not None:
        result.compile(optimizer="sgd", **measures._fresh_compile_arguments())
    return result
