"""Two processes on 127.0.0.1 train as one does."""

import json

import keras
import numpy as np
import pytest
from cluster import Cluster
from scenarios import BATCH, build, everything, killed, plain, regression, weights

from kregkit import data, distribution
from kregkit._core import keras_internals
from kregkit._core.workers import Worker
from kregkit.distribution import multi_worker

pytestmark = pytest.mark.trains


@pytest.fixture
def unmended():
    """Puts back what `enable_multi_worker` replaces."""
    places = [keras_internals.symbolic_build_of_fit(), keras_internals.reduction_of_replicas()]
    finite = keras.optimizers.LossScaleOptimizer.check_finite
    yield places
    for owner, name, function in places:
        setattr(owner, name, function)
    keras.optimizers.LossScaleOptimizer.check_finite = finite


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Returns the results of both workers, of one process, and the workers' directory."""
    directory = tmp_path_factory.mktemp("workers")
    with Cluster("everything", directory) as cluster:
        cluster.finish()
    workers = [dict(np.load(directory / f"result-{index}.npz")) for index in range(2)]
    return workers, everything(None, tmp_path_factory.mktemp("one")), directory


SAME = ("predict", "rates", "pipeline_loss", "average", "raw", "normalized_loss_True", "normalized_weights_True")


def test_two_workers_fit_as_one_process_does(tmp_path):
    with Cluster("plain", tmp_path) as cluster:
        cluster.finish()
    workers = [np.load(tmp_path / f"result-{index}.npz") for index in range(2)]
    for name, expected in plain(None, tmp_path).items():
        np.testing.assert_array_equal(workers[0][name], workers[1][name])
        np.testing.assert_allclose(workers[0][name], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", SAME)
def test_two_workers_train_as_one_process_does(results, name):
    workers, one, _ = results
    np.testing.assert_array_equal(workers[0][name], workers[1][name])
    np.testing.assert_allclose(workers[0][name], one[name], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_statistics_diverge_where_they_are_not_synchronized(results):
    # What the docs say of it; if this fails, they need not say it any more.
    workers = results[0]
    name = "normalized_weights_False"
    assert np.abs(workers[0][name] - workers[1][name]).max() > 1e-2
    np.testing.assert_array_equal(*(worker["normalized_loss_False"] for worker in workers))


@pytest.mark.slow
def test_the_chief_writes_the_snapshots(results):
    _, one, directory = results
    files = sorted(path.name for path in (directory / "snapshots").iterdir())
    assert files == [
        *("architecture.json", "cycle-01.weights.h5", "cycle-02.state.npz", "cycle-02.weights.h5", "manifest.json")
    ]
    manifest = json.loads((directory / "snapshots" / "manifest.json").read_text())
    assert manifest["finished"] and [member["step"] for member in manifest["members"]] == [10, 20]
    model = build(None)
    model.load_weights(directory / "snapshots" / "cycle-02.weights.h5")
    last = weights(model)
    np.testing.assert_allclose(last, one["raw"], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_each_worker_reads_its_own_part_of_a_pipeline(results):
    workers, one, _ = results
    x, _ = regression(85)
    expected = [batch[0].numpy() for batch in data.pipeline((x, x), BATCH, image=None, seed=3)]
    assert [worker["sizes"].tolist() for worker in workers] == [[8] * 5 + [3], [8] * 5 + [2]]
    starts = [np.split(worker["seen"], np.cumsum(worker["sizes"])[:-1]) for worker in workers]
    for first, second, batch in zip(*starts, expected):
        together = np.empty_like(batch)
        together[::2], together[1::2] = first, second
        np.testing.assert_array_equal(together, batch)
    # Every epoch is counted once, on every worker.
    assert workers[0]["epoch"] == workers[1]["epoch"] == one["epoch"] == 4


@pytest.mark.slow
def test_seeds_agree_and_noise_differs(results):
    workers = results[0]
    np.testing.assert_array_equal(workers[0]["seed"], workers[1]["seed"])
    np.testing.assert_array_equal(workers[0]["common_noise"], workers[1]["common_noise"])
    assert np.abs(workers[0]["own_noise"] - workers[1]["own_noise"]).min() > 0


@pytest.mark.slow
def test_a_worker_that_is_killed_and_started_again_resumes(tmp_path):
    with Cluster("killed", tmp_path) as cluster:
        codes = cluster.wait()
    assert codes[1] == -9 and codes[0] != 0 and (tmp_path / "killed").exists()
    members = json.loads((tmp_path / "snapshots" / "manifest.json").read_text())["members"]
    assert [member["step"] for member in members] == [10]
    with Cluster("killed", tmp_path) as cluster:
        cluster.finish()
    (tmp_path / "one").mkdir()
    one = killed(None, tmp_path / "one")
    for index in range(2):
        worker = np.load(tmp_path / f"result-{index}.npz")
        # The second cycle begins with epoch 2.
        assert worker["epochs"].tolist() == [2, 3, 4, 5]
        np.testing.assert_allclose(worker["loss"], one["loss"][2:], rtol=1e-5)
        np.testing.assert_allclose(worker["weights"], one["weights"], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_workers_that_are_killed_with_resume_end_in_the_same_bits(tmp_path):
    whole, runs = tmp_path / "whole", tmp_path / "killed"
    for directory in (whole, runs):
        directory.mkdir()
    (whole / "whole").touch()
    with Cluster("resumed", whole) as cluster:
        cluster.finish()
    # The second worker within an epoch of the first fit, then the chief in the second fit.
    for worker in (1, 0):
        with Cluster("resumed", runs) as cluster:
            codes = cluster.wait()
        assert codes[worker] == -9 and codes[1 - worker] != 0 and (runs / f"killed-{worker}").exists()
    with Cluster("resumed", runs) as cluster:
        cluster.finish()
    for index in range(2):
        one, other = (dict(np.load(directory / f"result-{index}.npz")) for directory in (whole, runs))
        for name, expected in one.items():
            np.testing.assert_array_equal(other[name], expected, err_msg=f"worker {index}: {name}")
    # Statistics that aren't synchronized and random numbers are each worker's own, all else is not.
    first, second = (dict(np.load(runs / f"result-{index}.npz")) for index in range(2))
    for name in first:
        assert (first[name].tolist() == second[name].tolist()) == (name not in ("pipeline_weights", "pipeline_drawn"))


def test_mends_once_and_only_what_keras_lacks(unmended, monkeypatch):
    (trainer, build, _), (module, reduce, _) = unmended
    mended = distribution.enable_multi_worker()
    functions = vars(trainer)[build], vars(module)[reduce]
    assert distribution.enable_multi_worker() == mended
    assert (vars(trainer)[build], vars(module)[reduce]) == functions
    # With one worker, the mended functions do what Keras's own do.
    x, y = regression(16)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    assert np.isfinite(model.fit(x, y, verbose=0).history["loss"]).all()


def test_does_nothing_where_keras_has_mended_it(unmended, monkeypatch):
    monkeypatch.setattr(multi_worker, "_BUILD_FAULT", "no line of Keras")
    monkeypatch.setattr(multi_worker, "_LOGS_FAULT", "no line of Keras")
    for owner, name, function in unmended:
        setattr(owner, name, getattr(function, "__wrapped__", function))
    before = [find()[2] for find in (keras_internals.symbolic_build_of_fit, keras_internals.reduction_of_replicas)]
    assert not {"build", "logs"} & set(distribution.enable_multi_worker())
    assert before == [
        find()[2] for find in (keras_internals.symbolic_build_of_fit, keras_internals.reduction_of_replicas)
    ]


def test_logs_are_reduced_over_all_replicas(monkeypatch):
    class Strategy:
        def reduce(self, operation, value, axis):
            return operation, value, axis

    monkeypatch.setattr(multi_worker, "worker_of", lambda strategy: Worker(0, 2))
    reduce = multi_worker._reduce_over_workers(lambda values, strategy, reduction: "Keras")
    assert reduce({"loss": 1.0}, Strategy(), "auto") == {"loss": ("MEAN", 1.0, None)}
    assert reduce({"loss": 1.0}, Strategy(), "sum") == {"loss": ("SUM", 1.0, None)}
    assert reduce({"loss": 1.0}, Strategy(), "concat") == "Keras"
