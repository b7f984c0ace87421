"""The rounds of a search, run by one of its workers."""

import contextlib
import dataclasses
import multiprocessing
import time

from kregkit._core.checks import check_boolean, check_callable, check_choice, check_integer, check_number
from kregkit._core.metrics import direction as direction_of
from kregkit._core.optional import import_optional
from kregkit._core.seeds import derived_seed
from kregkit.search._progress import Progress
from kregkit.search._trial import PROCESS, WorkerDied, run_trial, run_trial_in_process
from kregkit.search._workers import Round, open_storage
from kregkit.search.result import SearchResult, trial_of
from kregkit.search.training import BuildAndFit


@dataclasses.dataclass
class Engine:
    """Runs the rounds of `search` and `grid`. The arguments are those of `search`."""

    train: object
    metric: str = "val_loss"
    direction: str = "auto"
    storage: object = None
    seed: int = 0
    repeats: int = 1
    name: str = "search"
    sampler: object = None
    pruner: object = None
    max_loss_ratio: float | None = 3.0
    fresh_process: bool = False
    timeout: float = 60.0
    catch: tuple = ()
    verbose: int = 1

    def __post_init__(self):
        check_callable("train", self.train, num=3)
        check_choice("direction", self.direction, ("auto", "min", "max"))
        if not isinstance(self.metric, str) or not self.metric:
            raise ValueError(f"`metric` must be the name of a logged quantity. Received: metric={self.metric!r}")
        check_integer("seed", self.seed, 0)
        check_integer("repeats", self.repeats, 1, 10**6)
        if not isinstance(self.name, str) or not self.name:
            raise ValueError(f"`name` must be a string that isn't empty. Received: name={self.name!r}")
        if self.sampler is not None and not callable(self.sampler):
            raise ValueError(f"`sampler` must be callable, as Optuna's classes are. Received: sampler={self.sampler!r}")
        if self.max_loss_ratio is not None:
            check_number("max_loss_ratio", self.max_loss_ratio, 1, low_open=True)
        check_boolean("fresh_process", self.fresh_process)
        check_number("timeout", self.timeout, 0, 10**8, low_open=True)
        self.catch = tuple(self.catch) if isinstance(self.catch, (tuple, list)) else (self.catch,)
        if not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in self.catch):
            raise ValueError(f"`catch` must be a tuple of classes of exceptions. Received: catch={self.catch!r}")
        check_integer("verbose", self.verbose, 0, 2)

    def _mode(self, space):
        """Returns `"min"` or `"max"`, asking a model if the metric's name isn't one of Keras's."""
        try:
            return direction_of(self.metric, self.direction, argument="direction")
        except ValueError:
            # A process of its own for each trial is there to keep models out of this one.
            if not isinstance(self.train, BuildAndFit) or self.fresh_process:
                raise
        model, _ = self.train.built(space.values(space.middle()))
        return direction_of(self.metric, self.direction, model, "direction")

    def run(self, space, trials, epochs, quantile=0.2, fixed=None):
        """Runs all rounds and returns a `SearchResult`; `trials` and `epochs` are lists, one number per round.

        With `fixed`, a list of drawn parameters, a round's trials take these.
        """
        optuna = import_optional("optuna", "kregkit.search")
        if self.pruner is not None and not isinstance(self.pruner, optuna.pruners.BasePruner):
            raise ValueError(f"`pruner` must be an Optuna pruner, not its class. Received: pruner={self.pruner!r}")
        if self.fresh_process and multiprocessing.current_process().name == PROCESS:
            # Without this, the process of a trial would join the search whose trial it is, and both wait for ever.
            raise RuntimeError(
                "A trial's own process has come to the search again: with `fresh_process=True`, a script must start it "
                'under `if __name__ == "__main__":`. Received: fresh_process=True'
            )
        self.mode = self._mode(space)
        storage = open_storage(self.storage)
        finished, rounds, studies, remarks, interrupted = [], [], [], {}, False
        with _quiet(optuna), Progress(sum(trials), self.metric, self.mode, self.verbose) as progress:
            for number, (num_trials, num_epochs) in enumerate(zip(trials, epochs), start=1):
                settings = {
                    "space": space.to_json(),
                    "metric": self.metric,
                    "mode": self.mode,
                    "epochs": num_epochs,
                    "repeats": self.repeats,
                    "seed": self.seed,
                    **({"grid": fixed} if fixed else {}),
                }
                pruner = self.pruner or optuna.pruners.MedianPruner()
                study = f"{self.name}-{number}"
                round = Round(storage, study, self.mode, num_trials, settings, pruner, self.timeout, self.storage)
                progress.start_round(number, len(trials), num_trials, num_epochs, space, remarks)
                try:
                    self._work(round, number, space, num_epochs, fixed, progress, finished)
                except BaseException as error:
                    interrupted = isinstance(error, KeyboardInterrupt)
                    # Also where it came between two steps: no slot waits for a worker that has left. A storage that
                    # can't be read has raised that error already.
                    with contextlib.suppress(*([] if interrupted else [Exception])):
                        round.release_own()
                    trials = [*finished, *(trial_of(number, *item) for item in round.trials().items())]
                    if not interrupted or all(trial.state != "complete" for trial in trials):
                        raise
                done = [trial_of(number, slot, frozen) for slot, frozen in round.trials().items()]
                finished += done
                rounds.append({"space": space, "epochs": num_epochs, "trials": num_trials, "remarks": remarks})
                studies.append(round.study)
                if interrupted:
                    break
                scores = [(trial.parameters, trial.value) for trial in done if trial.state == "complete"]
                space, remarks = space.around(scores, self.mode, quantile)
            if interrupted:
                progress.interrupted(finished, self.storage is not None)
            else:
                progress.finish(remarks, finished)
        return SearchResult(finished, rounds, space, remarks, self.metric, self.mode, studies, interrupted)

    def _work(self, round, number, space, epochs, fixed, progress, earlier):
        """Takes slots of a round until all are finished, by this worker or others."""
        optuna = round.optuna
        make = self.sampler or optuna.samplers.RandomSampler

        def sampler(slot):
            return make(seed=derived_seed(self.seed, number, slot))

        def params(slot):
            drawn = fixed[slot] if fixed else {}
            return {name: (value, space.parameters[name].distribution()) for name, value in drawn.items()}

        while True:
            taken = round.take(sampler, params)
            if self.verbose:
                progress.show([*earlier, *(trial_of(number, *item) for item in round.trials().items())])
            if taken is not None:
                self._run(round, *taken, number, space, epochs)
            elif round.is_finished():
                return
            else:
                round.give_up_dead()
                time.sleep(min(0.5, self.timeout / 10))

    def _run(self, round, slot, trial, number, space, epochs):
        def report(epoch, value):
            trial.report(value, epoch)
            return trial.should_prune()

        run = run_trial_in_process if self.fresh_process else run_trial
        try:
            with round.beating(trial):
                # From 1: SeedSequence ignores a trailing 0, so that repeat 0 would get the sampler's seed.
                seeds = [derived_seed(self.seed, number, slot, 1 + repeat) for repeat in range(self.repeats)]
                values = space.values(space.draw(trial))
                try:
                    outcome = run(
                        self.train,
                        values,
                        epochs,
                        seeds,
                        self.metric,
                        self.mode,
                        self.max_loss_ratio,
                        report,
                        self.direction == "auto",
                    )
                except (*self.catch, WorkerDied) as error:
                    outcome = {"state": "failed", "value": None, "reason": f"{type(error).__name__}: {error}"}
        except round.optuna.exceptions.UpdateFinishedTrialError:
            # Other workers have given this trial up, since its heartbeat stopped: the slot is theirs now.
            return
        except BaseException:
            round.release(trial)
            raise
        round.record(trial, outcome)


@contextlib.contextmanager
def _quiet(optuna):
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(verbosity)
