"""Several models that predict as one."""

from __future__ import annotations

import pathlib
import warnings
from typing import Any

import keras
import numpy as np

from kregkit._core.backends import require_tensorflow
from kregkit._core.checks import check_choice, check_integer
from kregkit._core.files import replacing
from kregkit._core.output_kinds import check_outputs
from kregkit._core.snapshot_directory import SnapshotDirectory
from kregkit._core.training_data import seen_arrays, training_arrays
from kregkit._core.types import Data, Path, Tensor
from kregkit._core.weights import swapped
from kregkit._core.written import Name, call_of
from kregkit.inference._architecture import Architecture, current_values, shared_architectures
from kregkit.inference._averaging import REDUCTIONS
from kregkit.inference._calibrators import applied
from kregkit.inference._labelled import labelled_predictions, weighs_nothing
from kregkit.inference._member_mean import MemberMean
from kregkit.inference._predictor import PredictionModel, Predictor
from kregkit.inference._saved import rebuilt, symbolic_inputs
from kregkit.inference._scores import disagreement, output_names, scores
from kregkit.inference.report import Report


class Member(Predictor):
    """One member of an ensemble: `predict`, `evaluate` and `to_model`, as its own model has them.

    Args:
        architecture: An `Architecture`, which other members may share.
        values: List of tensors, the member's weights and states.
        name: String.
        information: Dictionary about its training, such as a snapshot's `cycle`, `epoch` and `logs`.
    """

    def __init__(self, architecture: Any, values: Tensor, name: str, information: Any = None) -> None:
        self._models = [architecture.model]
        super().__init__(self._models)
        self.architecture = architecture
        self.values = values
        self.name = name
        self.information = dict(information or {})

    def __repr__(self):
        return f"<Member {self.name!r} of {self.architecture.model.name!r}>"

    def _predict_batch(self, inputs, first_example):
        return self.architecture(self.values, inputs, 0, first_example)

    def to_model(self) -> keras.Model:
        """Returns a new Keras model, uncompiled, with this member's weights."""
        return rebuilt(self.architecture.model, self.values, self.architecture.model.name)


class DrawnMember(Member):
    """A member whose weights are one draw, which shares with `base` what isn't drawn.

    Args:
        base: `Member`.
        drawn: Dictionary from indices in `architecture.variables` to tensors.
        number: Integer, the draw's number from 1.
    """

    def __init__(self, base: Any, drawn: dict[int, Any], number: int) -> None:
        values = [drawn.get(index, value) for index, value in enumerate(base.values)]
        super().__init__(base.architecture, values, f"draw {number} of {base.name}", base.information)
        self.base, self.drawn = base, drawn


class Ensemble(Predictor):
    """Averages the predictions of several models, `p(x) = mean_m p_m(x)`, in one Keras model.

    Members may have different architectures, if they take the same inputs and give the same outputs. Those of the same
    architecture share one traced graph. The ensemble holds the weights that the models have when it is made; the
    models are not changed, and their further training doesn't change it.

    What it predicts means the same as what its members predict, so that losses, metrics and thresholds stay right:
    probabilities where they give probabilities, and where they give logits, logits whose softmax (or sigmoid) is the
    averaged probability. Where some members give logits and some probabilities, the result is probabilities.

    Args:
        models: Non-empty list of built Keras models.
        outputs: What the members' outputs are: `"probabilities"`, `"logits"`, `"values"` (regression), a list or
            dictionary of these for several outputs, or `"auto"`: from the loss that a model was compiled with, else
            from its last activation. Defaults to `"auto"`.
        reduce: `"probabilities"` averages probabilities, `"geometric"` takes their normalised geometric mean,
            `"logits"` averages logits (the same distribution as `"geometric"`, without normalising logits). Values are
            always averaged as they are. Defaults to `"probabilities"`.

    Raises:
        ValueError: An argument is none of these; at first prediction: it can't be told what an output means, or the
            members' outputs differ in number, shape or meaning.

    Example:

    >>> import keras, numpy as np
    >>> def model():
    ...     return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="softmax")])
    >>> models = [model(), model()]
    >>> ensemble = Ensemble(models)
    >>> x = np.ones((5, 4), "float32")
    >>> mean = np.mean([model.predict(x, verbose=0) for model in models], axis=0)
    >>> np.allclose(ensemble.predict(x, verbose=0), mean)
    True

    Reference: [Huang et al., 2017](https://arxiv.org/abs/1704.00109)
    """

    def __init__(self, models: Any, outputs: str = "auto", reduce: str = "probabilities") -> None:
        require_tensorflow("Ensemble")
        alone = isinstance(models, keras.Model)
        models = models if alone or not hasattr(models, "__iter__") else list(models)
        if not isinstance(models, list) or not models or not all(isinstance(model, keras.Model) for model in models):
            raise ValueError(f"`models` must be a non-empty list of Keras models. Received: models={models!r}")
        for model in models:
            if not model.built:
                raise ValueError(
                    "Every model must be built: call it on a batch, or give it an Input, first. "
                    f"Received: models with {model.name!r}, which is not built"
                )
        architectures = zip(models, shared_architectures(models))
        members = [
            Member(architecture, current_values(model), f"member {index + 1}")
            for index, (model, architecture) in enumerate(architectures)
        ]
        self._set(members, [1] * len(members), outputs, reduce, models)
        self.training_data = [array for model in models for array in training_arrays(model)]

    def _set(self, members, counts, outputs, reduce, models=None):
        check_outputs(outputs)
        self.outputs = self._outputs = outputs
        self.reduce = check_choice("reduce", reduce, REDUCTIONS)
        self._members = members
        self._counts = counts
        self._models = [member.architecture.model for member in members]
        # Models of one architecture share the first one of them.
        self._names = [Name(model.name) for model in models or self._models]
        self._member_mean = MemberMean(self._models, self.weights, outputs, reduce)
        super().__init__(models or self._models)

    @classmethod
    def _of(cls, members, counts, outputs, reduce):
        ensemble = cls.__new__(cls)
        ensemble._set(members, counts, outputs, reduce)
        return ensemble

    @classmethod
    def from_directory(
        cls,
        directory: Path,
        last: int | None = None,
        model: keras.Model | None = None,
        custom_objects: dict[str, Any] | None = None,
        outputs: str = "auto",
        reduce: str = "probabilities",
    ) -> Any:
        """Opens the members of a snapshot run, also of an unfinished one.

        Args:
            directory: String or path that `callbacks.SnapshotEnsemble` wrote to.
            last: Integer, how many members to take, from the newest. Defaults to all.
            model: The built model that was trained, where its architecture could not be recorded. It is left as it is.
            custom_objects: Dictionary of names to classes and functions that the recorded architecture needs.
            outputs, reduce: As in `Ensemble`.

        Raises:
            FileNotFoundError: There is no snapshot run.
            ValueError: It has no members yet, fewer than `last`, or members that are missing or corrupt; the message
                names each.
        """
        require_tensorflow("Ensemble")
        run = SnapshotDirectory(directory)
        entries = run.read()["members"]
        if last is not None:
            check_integer("last", last, 1)
        if not entries or len(entries) < (last or 1):
            raise ValueError(
                f"{run.path} holds {len(entries)} complete snapshots, which is too few. Received: last={last}"
            )
        entries = entries[-last:] if last else entries
        paths, faults = [], []
        for entry in entries:
            try:
                paths.append(run.member_path(entry))
            except ValueError as error:
                faults.append(str(error))
        if faults:
            raise ValueError("; ".join(faults))
        if model is None:
            model = run.load_architecture(custom_objects)
        if not model.built:
            raise ValueError(f"The model must be built. Received: model={model.name!r}, which is not built")
        architecture = Architecture(model)
        optimizer = getattr(model, "optimizer", None)
        kept = [*model.variables, *(optimizer.variables if optimizer is not None else [])]
        members = []
        with swapped(kept, kept), warnings.catch_warnings():
            # The files hold optimizer state as well, which no member needs.
            warnings.filterwarnings("ignore", message="Skipping variable loading for optimizer")
            for entry, path in zip(entries, paths):
                try:
                    model.load_weights(path)
                except Exception as error:
                    raise ValueError(f"Snapshot {path} does not fit the model: {error}") from error
                members.append(Member(architecture, current_values(model), f"cycle {entry['cycle']}", entry))
        ensemble = cls._of(members, [1] * len(members), outputs, reduce)
        ensemble.training_data = training_arrays(model)
        return ensemble

    def with_drawn_weights(self, weight_draws: Any) -> Any:
        """Returns the ensemble of draws of its members' weights; `WeightDraws` makes them."""
        drawn = [
            [DrawnMember(member, values, number) for number, values in enumerate(draws, 1)]
            for member, draws in zip(self._members, weight_draws.members(self._members))
        ]
        counts = [count for count, draws in zip(self._counts, drawn) for _ in draws]
        ensemble = self._of([member for draws in drawn for member in draws], counts, self.outputs, self.reduce)
        ensemble._compile_arguments, ensemble._measured_by = self._compile_arguments, self._measured_by
        ensemble.training_data = [*self.training_data, *seen_arrays(weight_draws.data)]
        return ensemble

    @property
    def members(self) -> list[Member]:
        """List of the members; each has a `name`, `predict`, `evaluate`, `to_model` and `information`."""
        return list(self._members)

    @property
    def weights(self) -> list[float]:
        """List of the members' weights in the mean; they sum to 1."""
        return [count / sum(self._counts) for count in self._counts]

    def __len__(self):
        return len(self._members)

    def __repr__(self):
        names = [member.name for member in self._members]
        if names != [f"member {index + 1}" for index in range(len(names))] or len(set(self._counts)) > 1:
            return f"<Ensemble of {len(self)}: {', '.join(names)}>"
        return call_of(Ensemble, {"models": self._names, "outputs": self.outputs, "reduce": self.reduce})

    def _predict_batch(self, inputs, first_example):
        """Returns the mean of the members' predictions; `MemberMean` computes it."""
        return self._member_mean(self._predict_each(inputs, first_example))

    def _predict_each(self, inputs, first_example):
        return [
            member.architecture(member.values, inputs, index, first_example)
            for index, member in enumerate(self._members)
        ]

    def to_model(self) -> keras.Model:
        """Returns the ensemble as one functional Keras model, made of the members and of Keras's own layers.

        Its inputs and outputs are called as those of the first member. It is compiled with the members' loss and
        metrics, if they have any, with a plain optimizer.

        Raises:
            ValueError: A member can't be rebuilt from its config, or its inputs are not known.
        """
        return self._saveable("ensemble")

    def _saveable(self, name, calibrators=None):
        inputs = symbolic_inputs(self._models)
        copies = [
            rebuilt(model, member.values, f"member_{index + 1}")
            for index, (model, member) in enumerate(zip(self._models, self._members))
        ]
        outputs = applied(calibrators, self._member_mean([model(inputs) for model in copies]))
        names = getattr(self._models[0], "output_names", None) or []
        flat = keras.tree.flatten(outputs)
        if len(names) == len(flat):
            flat = [keras.layers.Identity(dtype=y.dtype, name=name)(y) for y, name in zip(flat, names)]
        model = keras.Model(inputs, keras.tree.pack_sequence_as(outputs, flat), name=name)
        if self._compile_arguments is not None:
            model.compile(optimizer="sgd", **self._fresh_compile_arguments())
            # So that a file lacks none of its variables, where the policy has wrapped it in a loss scale.
            model.optimizer.build(model.trainable_variables)
        return model

    def save(self, path: Path) -> None:
        """Writes `to_model()` to a `.keras` file, which `keras.models.load_model` opens.

        The file is there whole or not at all. kregkit is needed to open it only if members contain its layers.
        """
        path = pathlib.Path(path)
        if path.suffix != ".keras":
            raise ValueError(f"`path` must end in '.keras'. Received: path={str(path)!r}")
        model = self.to_model()
        with replacing(path) as temporary:
            model.save(temporary)

    def select(
        self, validation: Data, rounds: int | None = None, loss: Any = None, batch_size: int | None = None
    ) -> Ensemble:
        """Returns the ensemble of the members that are best together on validation data, by greedy selection.

        Each round adds the member that lowers the average's loss most, one already taken included, whose weight in the
        average then grows; the best of all rounds is kept. It is never worse on `validation` than the best member.

        Args:
            validation: `(x, y)` or `(x, y, sample_weight)` of arrays, or a data set of such batches.
            rounds: Integer, at most how many times a member is added. Defaults to twice the number of members.
            loss: Callable `(y_true, y_pred)` on NumPy arrays to a float, lower is better. Defaults to the mean log
                loss, or squared error for values, summed over the outputs.
            batch_size: Integer, for arrays. Defaults to 32.

        Reference: [Caruana et al., 2004](https://doi.org/10.1145/1015330.1015432)
        """
        rounds = 2 * len(self) if rounds is None else check_integer("rounds", rounds, 1)
        labelled = self._predict_members(validation, batch_size)
        predictions = labelled.prediction
        reductions = self._member_mean.reductions(predictions)
        flat = [keras.tree.flatten(prediction) for prediction in predictions]
        # Transformed once: only sums and the way back are left for each of the trials.
        terms = [
            np.stack([keras.ops.convert_to_numpy(reduction.transform(y, task)) for y, task in zip(ys, tasks)])
            for ys, tasks, reduction in zip(zip(*flat), self._member_mean.tasks(predictions), reductions)
        ]

        def bag_loss(counts):
            weights = np.asarray(counts, "float32") / sum(counts)
            used = np.flatnonzero(weights)
            means = [
                keras.ops.convert_to_numpy(
                    reduction.finish(keras.ops.convert_to_tensor(np.tensordot(weights[used], term[used], 1)))
                )
                for reduction, term in zip(reductions, terms)
            ]
            if loss is not None:
                return float(loss(labelled.y, keras.tree.pack_sequence_as(predictions[0], means)))
            return sum(
                next(iter(scores(target, mean, reduction.task, weight).values()))
                for target, mean, reduction, weight in zip(labelled.targets, means, reductions, labelled.weights)
                if target is not None
            )

        counts = _greedy_selection(len(self), rounds, bag_loss)
        chosen = [index for index, count in enumerate(counts) if count]
        selected = self._of(
            [self._members[index] for index in chosen], [counts[index] for index in chosen], self.outputs, self.reduce
        )
        selected.training_data = self.training_data
        return selected

    def report(self, validation: object, batch_size: int | None = None) -> Report:
        """Returns a `Report` of each member and the ensemble on validation data.

        The measures are those of every predictor's `report`, the ensemble's with intervals. Disagreement is how often
        a pair of members decide differently, for values their root-mean-square difference.

        Args:
            validation: `(x, y)` or `(x, y, sample_weight)` of arrays, or a data set of such batches.
            batch_size: Integer, for arrays. Defaults to 32.
        """
        labelled = self._predict_members(validation, batch_size, partly=True)
        predictions = labelled.prediction
        combined = keras.tree.map_structure(keras.ops.convert_to_numpy, self._member_mean(predictions))
        tasks = self._member_mean.tasks(predictions)
        names = output_names(self._models[0], combined)
        rows = []
        for index, (member, member_weight, prediction) in enumerate(zip(self._members, self.weights, predictions)):
            own, _ = self._measures(labelled, prediction, [each[index] for each in tasks], with_intervals=False)
            rows.append({"name": member.name, "weight": member_weight, **own})
        flat = [keras.tree.flatten(prediction) for prediction in predictions]
        matrices = {}
        for index, name in enumerate(names):
            task, weight = tasks[index], labelled.weights[index]
            if weighs_nothing(weight):
                continue
            matrices[name] = np.array([
                [disagreement(left[index], right[index], task[0], weight) for right in flat] for left in flat
            ])  # fmt: skip
        matrix = matrices if len(names) > 1 else matrices[names[0]]
        found, ranges = self._measures(labelled, combined)
        return Report(rows, found, ranges, matrix, self._unweighed(labelled, combined))

    def _predict_members(self, validation, batch_size, partly=False):
        """Returns the `Labelled` whose prediction is the list of the members', from one pass over the data."""
        each = PredictionModel(self._models, self._predict_each, several=True)
        return labelled_predictions(each, validation, batch_size, self._models[0], partly)


def _greedy_selection(num, rounds, loss):
    """Returns how often each of `num` members is taken by greedy selection with replacement.

    Each round adds the member whose addition gives the lowest loss of the average; the best of all rounds is kept
    (Caruana et al. 2004, without their bagging of models).

    Args:
        num: Integer, number of members.
        rounds: Integer, number of rounds.
        loss: Callable from a list of `num` counts to a float, lower is better.
    """
    counts = [0] * num
    best, best_loss = None, np.inf
    for _ in range(rounds):
        losses = []
        for index in range(num):
            counts[index] += 1
            losses.append(loss(counts))
            counts[index] -= 1
        chosen = int(np.nanargmin(losses))
        counts[chosen] += 1
        if losses[chosen] < best_loss:
            best, best_loss = list(counts), losses[chosen]
    return best
