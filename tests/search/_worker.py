"""A worker of a shared search, run as a process by `test__workers.py`; it writes what it trains to a log."""

import json
import os
import sys
import time

import kregkit.search._workers as round_module
from kregkit import search


def make_train(log, name, hang_at):
    calls = []

    def say(event, parameters):
        with open(log, "a", encoding="utf-8") as file:
            file.write(json.dumps([event, name, parameters["rate"]]) + "\n")

    def train(parameters, epochs, callbacks):
        calls.append(parameters)
        say("start", parameters)
        time.sleep(0.05)
        if len(calls) == hang_at:
            say("hang", parameters)
            time.sleep(600)
        say("end", parameters)
        return {"val_loss": [abs(parameters["rate"] - 0.01)] * epochs}

    return train


def main(storage, log, name, hang_at, foreign):
    if foreign == "foreign":
        # As on another machine, where nobody can see that a process has ended.
        here = round_module.this_worker
        round_module.this_worker = lambda: {**here(), "machine": name}
    space = search.Space(rate=search.log_uniform(1e-4, 1.0))
    arguments = {"epochs": [1, 2], "storage": storage, "timeout": 3.0, "verbose": 0}
    # Both begin at once: the other one says that it is ready by a file.
    open(f"{log}.{name}", "w").close()
    while sum(os.path.exists(f"{log}.{other}") for other in "ab") < 2:
        time.sleep(0.01)
    result = search.search(make_train(log, name, int(hang_at)), space, [10, 4], **arguments)
    trials = [[one.round, one.index, one.state, one.parameters["rate"]] for one in result.trials]
    with open(f"{log}.{name}.result", "w", encoding="utf-8") as file:
        json.dump({"trials": trials, "space": result.rounds[1]["space"].to_json()}, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
