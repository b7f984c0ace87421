"""A script that starts a search without the guard that processes need, run by `test_trial.py`."""

import sys

from kregkit import search


def train(parameters, epochs, callbacks):
    return {"val_loss": [parameters["a"]] * epochs}


space = search.Space(a=search.uniform(0.0, 1.0))
search.search(train, space, [1], epochs=[1], fresh_process=True, storage=sys.argv[1], verbose=0)
