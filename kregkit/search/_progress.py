"""What a search shows while it runs."""

from kregkit._core.metrics import is_better
from kregkit._core.notebook import in_notebook


class Progress:
    """A progress bar with the best so far, and a line for each round and each widened range.

    Args:
        total: Integer, how many trials there are.
        metric, mode: Strings.
        verbose: 0 for nothing at all, 1 for a bar, 2 for a line per trial without control characters, for files. In a
            notebook, 1 does the same as 2: a bar would need widgets there.
    """

    def __init__(self, total, metric, mode, verbose):
        self.total, self.metric, self.mode = total, metric, mode
        self.verbose = 2 if verbose == 1 and in_notebook() else verbose
        self._shown = 0

    def __enter__(self):
        if self.verbose == 1:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = [BarColumn(20), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}")]
            self._bar = Progress(*columns)
            self._bar.start()
            self._task = self._bar.add_task("", total=self.total)
        return self

    def __exit__(self, *_):
        if self.verbose == 1:
            self._bar.stop()

    def start_round(self, number, rounds, trials, epochs, space, remarks):
        """Says what a round searches."""
        self._say(f"round {number} of {rounds}: {trials} trials of {epochs} {'epoch' if epochs == 1 else 'epochs'}")
        for name, parameter in space.parameters.items():
            self._say(f"  {name}: {parameter}" + (f" ({remarks[name]})" if name in remarks else ""))

    def show(self, trials):
        """Moves the bar to the trials that are finished, whoever ran them."""
        best = self._best_of(trials)
        text = f"best {self.metric} {best.value:.4g}" if best else ""
        if self.verbose == 2:
            for trial in trials[self._shown :]:
                value = trial.state if trial.value is None else f"{trial.value:.4g}"
                drawn = ", ".join(f"{name} {_short(one)}" for name, one in trial.parameters.items())
                self._shown += 1
                self._say(f"trial {self._shown} of {self.total}: {self.metric} {value} ({drawn}); {text}")
            return
        self._bar.update(self._task, completed=len(trials), description=text)

    def interrupted(self, trials, stored):
        """Says how far the search came before Ctrl-C, what was best until then, and how to go on."""
        self.show_best(trials)
        how = "the same call goes on from here" if stored else "with `storage=` the same call would go on from here"
        self._say(f"interrupted: {len(trials)} of {self.total} trials are finished; {how}")

    def finish(self, remarks, trials):
        """Says what was best, or why nothing was, and where a further round would look beyond the ranges."""
        if not self.show_best(trials) and trials:
            self._say(f"no trial is complete; the first one {trials[0].state}: {trials[0].reason}")
        for name, remark in remarks.items():
            self._say(f"a further round would have {name} {remark}: search on from `result.space`")

    def show_best(self, trials):
        """Says which trial is the best; returns whether there is one."""
        best = self._best_of(trials)
        if best:
            drawn = (f"{name} {_short(value)}" for name, value in best.parameters.items())
            self._say(f"best {self.metric} {best.value:.4g}: {', '.join(drawn)}")
        return best is not None

    def _best_of(self, trials):
        best = None
        for trial in trials:
            if trial.state == "complete" and is_better(trial.value, best and best.value, self.mode):
                best = trial
        return best

    def _say(self, text):
        if self.verbose == 2:
            print(text, flush=True)
        elif self.verbose:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)


def _short(value):
    return f"{value:.4g}" if isinstance(value, float) else str(value)
