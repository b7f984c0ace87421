"""Runs kregkit beside other libraries, and says which versions it ran with.

    pip install tensorboard wandb mlflow-skinny datasets pandas onnx tf2onnx onnxruntime keras-hub
    python benchmarks/works_with.py            # seconds each; what isn't installed is left out
    python benchmarks/works_with.py --write    # makes docs/works_with.md of it; all must be installed
    python benchmarks/works_with.py --smoke    # the same as without

Each check trains or predicts with the other library, offline, and looks at what that wrote or returned.
"""

import argparse
import contextlib
import importlib.metadata
import importlib.util
import io
import os
import pathlib
import platform
import sys
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ |= {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1"}

import keras
import numpy as np
import tensorflow as tf

from kregkit import callbacks, data, inference, optimizers, transfer
from kregkit.diagnostics import preflight

PAGE = pathlib.Path(__file__).resolve().parents[1] / "docs" / "works_with.md"
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(64, 4)).astype("float32"), RNG.integers(0, 3, 64)
CHECKS = {}


def check(what, *packages, modules=()):
    """Enters a function into the table: what is done, with which packages, imported by which names."""

    def enter(function):
        CHECKS[what] = (function, packages, modules or packages)
        return function

    return enter


def build():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(3)])
    model.compile(keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def kit():
    """Returns callbacks that log, that average and that measure."""
    return [callbacks.Warmup(1), callbacks.CosineDecay(), callbacks.PolyakAveraging(0.9), callbacks.UpdateRatio(1)]


def fit(*loggers, model=None):
    model = model or build()
    history = model.fit(X, Y, epochs=2, validation_data=(X, Y), callbacks=[*kit(), *loggers], verbose=0)
    assert "learning_rate" in history.history
    return history.history


@check("`keras.callbacks.CSVLogger`: a column per learning rate and update ratio", "keras")
def csv_logger():
    history = fit(keras.callbacks.CSVLogger("log.csv"))
    header, *rows = pathlib.Path("log.csv").read_text().splitlines()
    columns = dict(zip(header.split(","), zip(*(row.split(",") for row in rows))))
    assert {"learning_rate", "update_ratio/dense", "val_loss"} <= {
        name.rpartition("_")[0] or name for name in columns
    } | set(columns)
    np.testing.assert_allclose([float(rate) for rate in columns["learning_rate"]], history["learning_rate"], rtol=1e-5)


@check("`keras.callbacks.TensorBoard`: the rate in the event files", "tensorboard")
def tensorboard():
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    history = fit(keras.callbacks.TensorBoard("events"))
    events = EventAccumulator("events/train").Reload()
    values = [float(tf.make_ndarray(event.tensor_proto)) for event in events.Tensors("epoch_learning_rate")]
    np.testing.assert_allclose(values, history["learning_rate"], rtol=1e-5)


@check("Weights & Biases, offline: `WandbMetricsLogger`", "wandb")
def weights_and_biases():
    import wandb
    from wandb.integration.keras import WandbMetricsLogger

    with wandb.init(project="kregkit", dir=".", mode="offline") as run:
        history = fit(WandbMetricsLogger())
        found = run.summary["epoch/learning_rate"]
    assert list(pathlib.Path("wandb").rglob("*.wandb"))
    np.testing.assert_allclose(found, history["learning_rate"][-1], rtol=1e-5)


@check("MLflow, in a local store: `mlflow.keras.MlflowCallback`", "mlflow-skinny", modules=["mlflow"])
def mlflow_callback():
    import mlflow
    import mlflow.keras

    mlflow.set_tracking_uri(f"sqlite:///{pathlib.Path.cwd() / 'mlflow.db'}")
    with mlflow.start_run() as run:
        history = fit(mlflow.keras.MlflowCallback())
    logged = mlflow.MlflowClient().get_run(run.info.run_id).data.metrics
    np.testing.assert_allclose(logged["learning_rate"], history["learning_rate"][-1], rtol=1e-5)


class Backbone(keras.Model):
    """A functional model in a subclass, as KerasHub writes them."""

    def __init__(self, width=8, blocks=2, **kwargs):
        inputs = keras.Input((4,))
        x = inputs
        for index in range(blocks):
            branch = [keras.layers.Dense(width, "relu"), keras.layers.Dropout(0.2), keras.layers.Dense(4)]
            x = x + keras.Sequential(branch, name=f"block_{index}")(x)
        super().__init__(inputs, x, **kwargs)


def task(backbone, inputs=None):
    inputs = keras.Input((4,)) if inputs is None else inputs
    model = keras.Model(inputs, keras.layers.Dense(3, name="head")(backbone(inputs)))
    model.compile(keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


@check(
    "a model in a model, each a subclass, as KerasHub builds them: averages, rates by depth, thawing, noise", "keras"
)
def nested_models():
    model = task(Backbone(name="backbone"))
    history = fit(model=model)
    assert "update_ratio/backbone/block_1/dense" in history, sorted(history)
    by_depth = optimizers.LayerwiseLearningRate.by_depth(keras.optimizers.SGD(0.1), model, decay=0.5)
    model.compile(by_depth, model.loss)
    model.fit(X, Y, verbose=0)
    frozen = transfer.freeze(model, until="block_0")
    assert frozen and "head" not in frozen
    assert transfer.unfreeze(model, start="block_0")
    _, spread = inference.marginalize(model, draws=4, spread=True).predict(X, verbose=0)
    assert spread["mutual_information"].max() > 0


@check(
    "KerasHub: `BertTextClassifier` of a small `BertBackbone`: averages, resume, rates by depth, thawing, preflight; "
    "snapshots, ensembles and noise of `keras.Model(task.inputs, task.outputs)`",
    "keras-hub",
    modules=["keras_hub"],
)
def keras_hub_models():
    import keras_hub

    x = {"token_ids": RNG.integers(1, 50, (48, 12))}
    x |= {"segment_ids": np.zeros((48, 12), "int32"), "padding_mask": np.ones((48, 12), "int32")}
    y = np.arange(48) % 3

    def compiled(model):
        model.compile(keras.optimizers.Adam(1e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        return model

    def classifier():
        sizes = {"num_layers": 2, "num_heads": 2, "hidden_dim": 16, "intermediate_dim": 32, "max_sequence_length": 12}
        backbone = keras_hub.models.BertBackbone(50, dropout=0.2, **sizes)
        return compiled(keras_hub.models.BertTextClassifier(backbone, num_classes=3, preprocessor=None))

    history = classifier().fit(x, y, epochs=2, validation_data=(x, y), callbacks=kit(), verbose=0).history
    assert "val_loss" in history and any("transformer_layer_1" in name for name in history)

    # Killed in its third epoch and taken up, with another start: the weights of a run that went through.
    def train(directory, seed, on_epoch_begin):
        keras.utils.set_random_seed(seed)
        model, other = classifier(), keras.callbacks.LambdaCallback(on_epoch_begin=on_epoch_begin)
        used = [callbacks.CosineDecay(), callbacks.Resume(directory), other]
        with contextlib.suppress(InterruptedError):
            model.fit(x, y, epochs=4, batch_size=16, callbacks=used, verbose=0)
        return model

    def kill(epoch, logs):
        if epoch == 2:
            raise InterruptedError

    through = train("through", 0, lambda epoch, logs: None)
    train("killed", 0, kill)
    resumed = train("killed", 1, lambda epoch, logs: None)
    for one, other in zip(through.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)

    task = classifier()
    layerwise = optimizers.LayerwiseLearningRate.by_depth(keras.optimizers.SGD(0.1), task, decay=0.5)
    task.compile(layerwise, task.loss)
    task.fit(x, y, verbose=0)
    assert "transformer_layer_0" in transfer.freeze(task, until="transformer_layer_0")
    assert "transformer_layer_1" in transfer.unfreeze(task, start="transformer_layer_1")
    preflight(compiled(task), (x, y), ["input_statistics", "initial_loss", "signal_flow"], verbose=0)

    # `predict` of a task prepares text; the functional model inside predicts as Keras does.
    plain = compiled(keras.Model(task.inputs, task.outputs))
    plain.fit(x, y, epochs=2, callbacks=[callbacks.SnapshotEnsemble("members", cycles=2)], verbose=0)
    ensemble = inference.Ensemble.from_directory("members")
    ensemble.save("ensemble.keras")
    loaded = keras.models.load_model("ensemble.keras")
    np.testing.assert_allclose(loaded.predict(x, verbose=0), ensemble.predict(x, verbose=0), atol=1e-5)
    _, spread = inference.marginalize(plain, draws=4, spread=True).predict(x, verbose=0)
    assert spread["mutual_information"].max() > 0


@check("Hugging Face `datasets`: as a source of `pipeline`, and `to_tf_dataset` in `fit` and `preflight`", "datasets")
def hugging_face():
    import datasets

    images = list(RNG.integers(0, 256, (24, 8, 8, 3), "uint8"))
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    held = datasets.Dataset.from_dict({"image": images, "label": Y[:24]}, features=kinds).with_format("numpy")
    augmented = data.pipeline(held, 8, [data.RandomFlip(), data.RandomCrop(1)], seed=1)
    batch = next(iter(augmented))
    assert batch["image"].shape == (8, 8, 8, 3) and batch["label"].shape == (8,)
    rows = datasets.Dataset.from_dict({"x": X, "y": Y}).with_format("numpy")
    batches = rows.to_tf_dataset(columns="x", label_cols="y", batch_size=16)
    model = build()
    model.fit(batches, epochs=2, callbacks=kit(), verbose=0)
    preflight(model, batches, ["input_statistics", "initial_loss"], verbose=0)


@check("pandas: data frames in `fit`, `preflight`, `marginalize` and `Ensemble`", "pandas")
def data_frames():
    import pandas

    frame, labels = pandas.DataFrame(X, columns=list("abcd")), pandas.Series(Y)
    model = build()
    model.fit(frame, labels, epochs=2, callbacks=kit(), verbose=0)
    preflight(model, (frame, labels), ["input_statistics", "initial_loss"], verbose=0)
    ensemble = inference.Ensemble([model, build()])
    np.testing.assert_allclose(ensemble.predict(frame, verbose=0), ensemble.predict(X, verbose=0), atol=1e-6)
    assert ensemble.evaluate(frame, labels, verbose=0, return_dict=True)["loss"] >= 0


def onnx_outputs(model, x):
    """Exports a model with Keras's own exporter and returns what ONNX Runtime computes of it."""
    import onnxruntime

    # Keras exports nothing to ONNX that was never called.
    model(x[:1])
    model.export("model.onnx", format="onnx", verbose=False)
    session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


@check(
    'ONNX: `Ensemble.to_model().export(format="onnx")`, the same numbers in ONNX Runtime',
    "onnx",
    "tf2onnx",
    "onnxruntime",
)
def onnx_ensemble():
    ensemble = inference.Ensemble([build(), build(), build()])
    found = onnx_outputs(ensemble.to_model(), X)
    np.testing.assert_allclose(found, ensemble.predict(X, verbose=0), atol=1e-5)


def versions(packages):
    return ", ".join(f"{package} {importlib.metadata.version(package)}" for package in packages)


def run():
    """Runs what can be run; returns rows `(what, versions, outcome)` and what wasn't installed."""
    rows, absent = [], []
    home = os.getcwd()
    for what, (function, packages, modules) in CHECKS.items():
        lacking = [name for name in modules if importlib.util.find_spec(name.replace("-", "_")) is None]
        if lacking:
            absent.append(f"{what}: {', '.join(lacking)} isn't installed")
            continue
        with tempfile.TemporaryDirectory() as directory:
            os.chdir(directory)
            try:
                with contextlib.redirect_stdout(io.StringIO()):
                    function()
                outcome = "works"
            except Exception as error:
                outcome = f"doesn't: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
            finally:
                os.chdir(home)
        rows.append((what, versions(packages), outcome))
        print(f"{outcome}: {what} ({versions(packages)})", flush=True)
    return rows, absent


def page(rows):
    own = versions(["keras", "tensorflow", "numpy"])
    table = "\n".join(f"| {what} | {used} | {outcome} |" for what, used, outcome in rows)
    return f"""# Works with

What was run, on Python {platform.python_version()} with {own}. `python benchmarks/works_with.py --write` made
this page: each row trained or predicted with the other library, offline, and compared what that wrote or returned.

| what | version | outcome |
|---|---|---|
{table}

Put loggers after kregkit's callbacks, so that they see what those add to the logs. CI runs the rows whose packages
kregkit's tests need, which are Keras and pandas, and TensorBoard and KerasHub where they are installed.
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"make docs/{PAGE.name}")
    parser.add_argument("--smoke", action="store_true", help="changes nothing: it takes seconds")
    arguments = parser.parse_args()
    rows, absent = run()
    print("\n".join(absent))
    if arguments.write:
        if absent:
            sys.exit("docs/works_with.md is made where all of them are installed.")
        PAGE.write_text(page(rows), encoding="utf-8")
        print(PAGE)
    if any(outcome != "works" for *_, outcome in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
