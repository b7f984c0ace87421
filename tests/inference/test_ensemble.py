import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from inference import models as zoo
from keras import layers

from kregkit._core.snapshot_directory import SnapshotDirectory
from kregkit.inference import Ensemble, Member
from kregkit.inference._architecture import Architecture, current_values

pytestmark = [pytest.mark.trains, pytest.mark.one_in(2)]

X, LABELS = zoo.X, zoo.LABELS


@pytest.fixture(scope="module")
def probability_models():
    return [zoo.classifier(seed) for seed in range(3)]


@pytest.fixture(scope="module")
def logit_models():
    return [zoo.classifier(seed, activation=None) for seed in range(3)]


def each(models, x=X):
    return np.stack([model.predict(x, verbose=0) for model in models]).astype("float64")


def ensemble_predict(models, x=X, **arguments):
    return Ensemble(models, **arguments).predict(x, verbose=0)


class TestAverage:
    def test_probabilities(self, probability_models):
        np.testing.assert_allclose(ensemble_predict(probability_models), each(probability_models).mean(0), rtol=1e-5)

    def test_geometric_mean(self, probability_models):
        product = np.prod(each(probability_models), axis=0) ** (1 / 3)
        expected = product / product.sum(-1, keepdims=True)
        np.testing.assert_allclose(ensemble_predict(probability_models, reduce="geometric"), expected, rtol=1e-5)
        np.testing.assert_allclose(ensemble_predict(probability_models, reduce="logits"), expected, rtol=1e-5)

    def test_logits_come_back_as_logits_of_the_mean_probability(self, logit_models):
        expected = np.mean([zoo.softmax(z) for z in each(logit_models)], axis=0)
        np.testing.assert_allclose(zoo.softmax(ensemble_predict(logit_models)), expected, rtol=1e-5)
        np.testing.assert_allclose(ensemble_predict(logit_models), np.log(expected), rtol=1e-5, atol=1e-6)

    def test_mean_of_logits(self, logit_models):
        mean = each(logit_models).mean(0)
        np.testing.assert_allclose(ensemble_predict(logit_models, reduce="logits"), mean, rtol=1e-5, atol=1e-6)
        geometric = ensemble_predict(logit_models, reduce="geometric")
        np.testing.assert_allclose(np.exp(geometric), zoo.softmax(mean), rtol=1e-5)

    def test_binary_from_probabilities_and_logits(self):
        loss = keras.losses.BinaryCrossentropy(from_logits=True)
        logits = [zoo.classifier(seed, activation=None, head=1, loss=loss) for seed in range(3)]
        expected = np.mean(zoo.sigmoid(each(logits)), axis=0)
        np.testing.assert_allclose(zoo.sigmoid(ensemble_predict(logits)), expected, rtol=1e-5)
        np.testing.assert_allclose(ensemble_predict(logits, reduce="geometric"), each(logits).mean(0), rtol=1e-4)
        sure = [zoo.classifier(seed, "sigmoid", head=1, loss="binary_crossentropy") for seed in range(3)]
        np.testing.assert_allclose(ensemble_predict(sure), each(sure).mean(0), rtol=1e-5)
        p = each(sure)
        geometric = np.prod(p, 0) ** (1 / 3) / (np.prod(p, 0) ** (1 / 3) + np.prod(1 - p, 0) ** (1 / 3))
        np.testing.assert_allclose(ensemble_predict(sure, reduce="geometric"), geometric, rtol=1e-5)

    def test_confident_binary_logits_lose_no_digits(self):
        """1 - sigmoid(30) is 0 in float32, so the way back must not go through it."""
        pair = []
        for bias in (30.0, 20.0):
            model = keras.Sequential([keras.Input((6,)), layers.Dense(1, kernel_initializer="zeros")])
            model.layers[0].bias.assign([bias])
            model.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=True))
            pair.append(model)
        no = (1 / (1 + np.exp(30.0)) + 1 / (1 + np.exp(20.0))) / 2
        np.testing.assert_allclose(ensemble_predict(pair)[0, 0], np.log((1 - no) / no), rtol=1e-6)

    def test_values_are_averaged_whatever_reduce_says(self):
        members = [zoo.classifier(seed, activation=None, head=2, loss="mse") for seed in range(3)]
        for reduce in ("probabilities", "logits", "geometric"):
            result = ensemble_predict(members, reduce=reduce)
            np.testing.assert_allclose(result, each(members).mean(0), rtol=1e-4, atol=1e-6)

    def test_members_of_different_architecture_and_form(self, probability_models, logit_models):
        members = [probability_models[0], logit_models[1], zoo.subclassed(4)]
        p = each(members)
        p[1] = zoo.softmax(p[1])
        ensemble = Ensemble(members)
        np.testing.assert_allclose(ensemble.predict(X, verbose=0), p.mean(0), rtol=1e-5)
        accuracy = ensemble.evaluate(X, LABELS, verbose=0, return_dict=True)["accuracy"]
        assert accuracy == pytest.approx(np.mean(p.mean(0).argmax(-1) == LABELS))

    def test_one_member_is_itself_bit_for_bit(self, logit_models):
        np.testing.assert_array_equal(ensemble_predict(logit_models[:1]), logit_models[0].predict(X, verbose=0))

    def test_half_precision_members_are_averaged_in_float32(self):
        keras.config.set_dtype_policy("mixed_float16")
        members = [zoo.classifier(seed) for seed in range(3)]
        result = ensemble_predict(members)
        assert result.dtype == np.float32
        np.testing.assert_allclose(result, each(members).mean(0), rtol=1e-6)

    @pytest.mark.parametrize("as_dictionary", [True, False])
    def test_several_inputs_and_outputs(self, as_dictionary):
        members = [zoo.two_headed(seed, as_dictionary) for seed in range(3)]
        image = np.random.default_rng(1).normal(size=(40, 4, 4, 1)).astype("float32")
        x = {"image": image, "features": X} if as_dictionary else [image, X]
        result = ensemble_predict(members, x)
        single = [model.predict(x, verbose=0) for model in members]
        kind, size = ("kind", "size") if as_dictionary else (0, 1)
        expected = np.mean([zoo.softmax(one[kind]) for one in single], axis=0)
        np.testing.assert_allclose(zoo.softmax(result[kind]), expected, rtol=1e-5)
        np.testing.assert_allclose(result[size], np.mean([one[size] for one in single], axis=0), rtol=1e-4, atol=1e-6)
        y = {"kind": LABELS, "size": X[:, :1]} if as_dictionary else [LABELS, X[:, :1]]
        logs = Ensemble(members).evaluate(x, y, verbose=0, return_dict=True)
        assert set(logs) == set(members[0].evaluate(x, y, verbose=0, return_dict=True))
        assert logs["kind_accuracy"] == pytest.approx(np.mean(expected.argmax(-1) == LABELS))
        report = Ensemble(members).report((x, y))
        assert report.ensemble["kind error"] == pytest.approx(1 - logs["kind_accuracy"])
        assert report.ensemble["size mean absolute error"] == pytest.approx(logs["size_mae"], rel=1e-4)

    def test_masks_reach_the_loss(self):
        def model(seed):
            keras.utils.set_random_seed(seed)
            model = keras.Sequential([
                keras.Input((5,)), layers.Embedding(7, 4, mask_zero=True), layers.SimpleRNN(3, return_sequences=True),
                layers.Dense(1),
            ])  # fmt: skip
            model.compile("sgd", "mse")
            return model

        members = [model(0), model(1)]
        x = np.array([[1, 2, 3, 0, 0], [4, 5, 6, 1, 0]])
        y = np.random.default_rng(0).normal(size=(2, 5, 1)).astype("float32")
        mean = each(members, x).mean(0)
        squares = ((mean - y) ** 2)[x > 0].mean()
        assert Ensemble(members).evaluate(x, y, verbose=0) == pytest.approx(squares, rel=1e-5)


class TestData:
    def test_every_kind_of_data_gives_the_same(self, probability_models):
        ensemble = Ensemble(probability_models)
        expected = ensemble.predict(X, verbose=0)
        dataset = tf.data.Dataset.from_tensor_slices((X, LABELS)).batch(16)

        class Batches(keras.utils.PyDataset):
            def __len__(self):
                return 4

            def __getitem__(self, index):
                return X[10 * index : 10 * index + 10], LABELS[10 * index : 10 * index + 10]

        for data in (dataset, Batches()):
            np.testing.assert_allclose(ensemble.predict(data, verbose=0), expected, rtol=1e-5)
            error = np.mean(expected.argmax(-1) != LABELS)
            assert 1 - ensemble.evaluate(data, verbose=0, return_dict=True)["accuracy"] == pytest.approx(error)
            assert ensemble.report(data).ensemble["error"] == pytest.approx(error)
        np.testing.assert_allclose(ensemble(X), expected, rtol=1e-5)

    def test_the_data_is_read_once(self, probability_models):
        read = []

        def batches():
            for start in range(0, 40, 10):
                read.append(start)
                yield X[start : start + 10], LABELS[start : start + 10]

        ensemble = Ensemble(probability_models)
        ensemble.predict(batches(), verbose=0)
        assert read == [0, 10, 20, 30]
        ensemble.report(batches())
        assert read == [0, 10, 20, 30] * 2


class TestEvaluate:
    def test_loss_and_metrics_are_the_members_own(self, logit_models):
        logs = Ensemble(logit_models).evaluate(X, LABELS, verbose=0, return_dict=True)
        p = np.mean([zoo.softmax(z) for z in each(logit_models)], axis=0)
        assert logs["loss"] == pytest.approx(-np.log(p[np.arange(40), LABELS]).mean(), rel=1e-5)
        assert logs["accuracy"] == pytest.approx(np.mean(p.argmax(-1) == LABELS))

    def test_leaves_the_members_metrics_alone(self):
        metric = keras.metrics.SparseCategoricalAccuracy(name="right")
        model = zoo.classifier(0)
        model.compile("sgd", "sparse_categorical_crossentropy", metrics=[metric])
        assert "right" in Ensemble([model, zoo.classifier(1)]).evaluate(X, LABELS, verbose=0, return_dict=True)
        assert float(metric.count) == 0

    def test_needs_a_compiled_member_or_compile(self):
        ensemble = Ensemble([zoo.classifier(seed, loss=None) for seed in range(2)])
        with pytest.raises(ValueError, match="Call `compile` first"):
            ensemble.evaluate(X, LABELS)
        ensemble.compile("sparse_categorical_crossentropy", metrics=["accuracy"])
        error = 1 - ensemble.evaluate(X, LABELS, verbose=0)[1]
        assert error == pytest.approx(np.mean(ensemble.predict(X, verbose=0).argmax(-1) != LABELS))


class TestArrays:
    def test_one_architecture_is_held_once(self, probability_models):
        ensemble = Ensemble([*probability_models, zoo.classifier(3, units=7)])
        first, second, third, other = (member.architecture for member in ensemble.members)
        assert first is second is third is not other

    def test_custom_layers_are_not_taken_for_equal(self):
        class Shift(layers.Layer):
            """Its config leaves out what it does."""

            def __init__(self, by=0.0, **kwargs):
                super().__init__(**kwargs)
                self.by = by

            def call(self, inputs):
                return inputs + self.by

        members = []
        for by in (0.0, 1.0):
            model = keras.Sequential([keras.Input((6,)), Shift(by)])
            model.compile("sgd", "mse")
            members.append(model)
        np.testing.assert_allclose(ensemble_predict(members), X + 0.5, rtol=1e-6)

    def test_lookup_tables_are_not_taken_for_equal(self):
        members = []
        for words in (["a", "b"], ["b", "a"]):
            lookup = layers.StringLookup(output_mode="one_hot")
            lookup.adapt(words)
            members.append(keras.Sequential([keras.Input((1,), dtype="string"), lookup]))
        x = tf.constant([["a"], ["b"]])
        expected = np.mean([model.predict(x, verbose=0) for model in members], axis=0)
        np.testing.assert_allclose(ensemble_predict(members, x, outputs="values"), expected)

    @pytest.mark.parametrize("jit_compile", [False, True])
    def test_later_training_changes_nothing(self, jit_compile):
        model = zoo.classifier(0)
        model.compile("adam", "sparse_categorical_crossentropy", jit_compile=jit_compile)
        ensemble = Ensemble([model, zoo.classifier(1)])
        before = ensemble.predict(X, verbose=0)
        model.fit(X, LABELS, verbose=0)
        model.layers[0].kernel.assign_add(np.ones((6, 5)))
        np.testing.assert_array_equal(ensemble.predict(X, verbose=0), before)

    def test_models_are_left_as_they_are(self, probability_models):
        model = probability_models[0]
        weights, config = model.get_weights(), model.get_config()
        expected = model.predict(X, verbose=0)
        ensemble = Ensemble(probability_models)
        ensemble.evaluate(X, LABELS, verbose=0)
        ensemble.report((X, LABELS))
        for one, other in zip(model.get_weights(), weights):
            np.testing.assert_array_equal(one, other)
        assert model.get_config() == config
        np.testing.assert_array_equal(model.predict(X, verbose=0), expected)


class TestErrors:
    def test_arguments(self, probability_models):
        for bad in ([], [1], probability_models[0].layers, probability_models[0]):
            with pytest.raises(ValueError, match=r"non-empty list of Keras models.*Received: models="):
                Ensemble(bad)
        with pytest.raises(ValueError, match=r"Received: reduce='mean'"):
            Ensemble(probability_models, reduce="mean")
        with pytest.raises(ValueError, match=r"Received: outputs='softmax'"):
            Ensemble(probability_models, outputs="softmax")
        with pytest.raises(ValueError, match="which is not built"):
            Ensemble([keras.Sequential([layers.Dense(3)])])

    def test_outputs_that_nothing_tells(self):
        members = [zoo.classifier(seed, activation=None, loss=None) for seed in range(2)]
        with pytest.raises(ValueError, match="could be probabilities, logits or values"):
            ensemble_predict(members)
        expected = np.mean([zoo.softmax(z) for z in each(members)], axis=0)
        np.testing.assert_allclose(zoo.softmax(ensemble_predict(members, outputs="logits")), expected, rtol=1e-5)

    def test_members_that_don_t_fit_together(self, probability_models):
        with pytest.raises(ValueError, match="differ in shape"):
            ensemble_predict([probability_models[0], zoo.classifier(5, head=4)])
        with pytest.raises(ValueError, match="differ in what they mean"):
            ensemble_predict([probability_models[0], zoo.classifier(5, activation=None, loss="mse")])


class TestSave:
    @pytest.mark.parametrize("reduce", ["probabilities", "logits", "geometric"])
    @pytest.mark.parametrize("kind", ["probability_models", "logit_models"])
    def test_opens_as_an_ordinary_model(self, kind, reduce, tmp_path, request):
        ensemble = Ensemble(request.getfixturevalue(kind), reduce=reduce)
        ensemble.save(tmp_path / "ensemble.keras")
        model = keras.models.load_model(tmp_path / "ensemble.keras")
        assert type(model).__name__ == "Functional"
        np.testing.assert_allclose(model.predict(X, verbose=0), ensemble.predict(X, verbose=0), rtol=1e-6, atol=1e-7)
        assert model.evaluate(X, LABELS, verbose=0) == pytest.approx(ensemble.evaluate(X, LABELS, verbose=0))

    def test_opens_without_a_warning_where_losses_are_scaled(self, tmp_path):
        keras.config.set_dtype_policy("mixed_float16")
        Ensemble([zoo.classifier(seed) for seed in range(2)]).save(tmp_path / "ensemble.keras")
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*Skipping variable loading")
            keras.models.load_model(tmp_path / "ensemble.keras")

    def test_opens_without_kregkit(self, probability_models, tmp_path):
        import subprocess
        import sys

        Ensemble(probability_models).save(tmp_path / "ensemble.keras")
        code = (
            "import sys, keras; keras.models.load_model(sys.argv[1]); "
            "assert not any(name.startswith('kregkit') for name in sys.modules)"
        )
        subprocess.run([sys.executable, "-c", code, tmp_path / "ensemble.keras"], check=True, cwd=tmp_path)

    def test_dictionaries_and_mixed_members(self, tmp_path):
        members = [zoo.two_headed(seed) for seed in range(2)]
        ensemble = Ensemble(members)
        ensemble.save(tmp_path / "two.keras")
        model = keras.models.load_model(tmp_path / "two.keras")
        x = {"image": np.ones((2, 4, 4, 1), "float32"), "features": X[:2]}
        expected, result = ensemble.predict(x, verbose=0), model.predict(x, verbose=0)
        assert set(result) == {"kind", "size"}
        for name in result:
            np.testing.assert_allclose(result[name], expected[name], rtol=1e-6)
        members = [zoo.classifier(0), zoo.subclassed(1)]
        Ensemble(members).save(tmp_path / "mixed.keras")
        model = keras.models.load_model(tmp_path / "mixed.keras")
        np.testing.assert_allclose(model.predict(X, verbose=0), ensemble_predict(members), rtol=1e-6)

    def test_refuses_what_can_t_be_saved(self, probability_models, tmp_path):
        with pytest.raises(ValueError, match=r"must end in '.keras'"):
            Ensemble(probability_models).save(tmp_path / "ensemble.h5")

        class NoConfig(keras.Model):
            def __init__(self, layer):
                super().__init__()
                self.layer = layer

            def call(self, inputs):
                return self.layer(inputs)

        model = NoConfig(layers.Softmax())
        model(X)
        with pytest.raises(ValueError, match="rebuilt from its config"):
            Ensemble([probability_models[0], model]).save(tmp_path / "ensemble.keras")
        assert list(tmp_path.iterdir()) == []


def write_run(path, models, finished=True):
    run = SnapshotDirectory(path)
    run.save_architecture(models[0])
    entries = [{"cycle": index + 1, "epoch": index, **run.save_member(m, index + 1)} for index, m in enumerate(models)]
    run.write({}, entries, finished)
    return run


class TestFromDirectory:
    @pytest.mark.parametrize("finished", [True, False])
    def test_reads_all_or_the_last_members(self, probability_models, tmp_path, finished):
        write_run(tmp_path, probability_models, finished)
        ensemble = Ensemble.from_directory(tmp_path)
        assert [member.name for member in ensemble.members] == ["cycle 1", "cycle 2", "cycle 3"]
        assert ensemble.members[1].information["epoch"] == 1
        np.testing.assert_allclose(ensemble.predict(X, verbose=0), each(probability_models).mean(0), rtol=1e-5)
        assert "accuracy" in ensemble.evaluate(X, LABELS, verbose=0, return_dict=True)
        last = Ensemble.from_directory(tmp_path, last=2, reduce="geometric")
        expected = ensemble_predict(probability_models[1:], reduce="geometric")
        np.testing.assert_allclose(last.predict(X, verbose=0), expected, rtol=1e-6)

    def test_a_given_model_is_left_as_it_is(self, tmp_path):
        models = [zoo.subclassed(0), zoo.subclassed(1)]
        run = write_run(tmp_path, models)
        run.architecture_path.unlink()
        with pytest.raises(ValueError, match="`model=`"):
            Ensemble.from_directory(tmp_path)
        own = zoo.subclassed(7)
        own.compile("adam", "sparse_categorical_crossentropy")
        own.fit(X, LABELS, verbose=0)
        before = [np.array(v) for v in own.variables + own.optimizer.variables]
        ensemble = Ensemble.from_directory(tmp_path, model=own)
        np.testing.assert_allclose(ensemble.predict(X, verbose=0), each(models).mean(0), rtol=1e-5)
        for variable, value in zip(own.variables + own.optimizer.variables, before, strict=True):
            np.testing.assert_array_equal(np.array(variable), value)

    def test_names_every_missing_or_corrupt_member(self, probability_models, tmp_path):
        write_run(tmp_path, probability_models)
        (tmp_path / "cycle-01.weights.h5").unlink()
        with open(tmp_path / "cycle-02.weights.h5", "r+b") as file:
            file.truncate(100)
        with pytest.raises(ValueError, match=r"cycle-01.*missing.*cycle-02.*corrupt"):
            Ensemble.from_directory(tmp_path)
        assert len(Ensemble.from_directory(tmp_path, last=1)) == 1

    def test_nothing_there_or_too_few(self, probability_models, tmp_path):
        with pytest.raises(FileNotFoundError, match="No snapshot run"):
            Ensemble.from_directory(tmp_path)
        write_run(tmp_path, probability_models[:2])
        with pytest.raises(ValueError, match=r"holds 2 complete snapshots.*Received: last=3"):
            Ensemble.from_directory(tmp_path, last=3)
        SnapshotDirectory(tmp_path).write({}, [], finished=False)
        with pytest.raises(ValueError, match="holds 0 complete snapshots"):
            Ensemble.from_directory(tmp_path)

    def test_weights_of_another_architecture(self, probability_models, tmp_path):
        write_run(tmp_path, probability_models)
        with pytest.raises(ValueError, match=r"cycle-01.weights.h5 does not fit the model"):
            Ensemble.from_directory(tmp_path, model=zoo.classifier(0, units=9))


class TestSelect:
    def test_greedy_selection_is_that_of_a_loop_in_numpy(self, probability_models):
        members = [*probability_models, *(zoo.classifier(seed) for seed in range(3, 6))]
        p = each(members)

        def loss(bag):
            return -np.log(p[bag].mean(0)[np.arange(40), LABELS]).mean()

        bag, best = [], None
        for _ in range(12):
            bag = min(([*bag, index] for index in range(6)), key=loss)
            if best is None or loss(bag) < loss(best) - 1e-9:
                best = bag
        chosen = Ensemble(members).select((X, LABELS))
        counts = np.bincount(best, minlength=6)
        assert [member.name for member in chosen.members] == [f"member {i + 1}" for i in range(6) if counts[i]]
        np.testing.assert_allclose(chosen.weights, counts[counts > 0] / counts.sum())
        np.testing.assert_allclose(chosen.predict(X, verbose=0), p[best].mean(0), rtol=1e-5)
        assert chosen.evaluate(X, LABELS, verbose=0)[0] <= min(loss([i]) for i in range(6)) + 1e-6

    def test_own_loss_and_logits(self, logit_models):
        def error(y, pred):
            return np.mean(pred.argmax(-1) != y)

        ensemble = Ensemble(logit_models)
        chosen = ensemble.select((X, LABELS), loss=error)
        single = min(error(LABELS, z) for z in each(logit_models))
        assert error(LABELS, chosen.predict(X, verbose=0)) <= single
        assert len(ensemble.select((X, LABELS), rounds=1)) == 1

    def test_weighted_ensembles_are_saved_as_such(self, probability_models, tmp_path):
        chosen = Ensemble(probability_models).select((X, LABELS), rounds=5)
        chosen.save(tmp_path / "chosen.keras")
        loaded = keras.models.load_model(tmp_path / "chosen.keras")
        np.testing.assert_allclose(loaded.predict(X, verbose=0), chosen.predict(X, verbose=0), rtol=1e-6)

    def test_needs_targets(self, probability_models):
        with pytest.raises(ValueError, match="must hold targets"):
            Ensemble(probability_models).select(X)


class TestMember:
    def test_predicts_as_its_own_model(self, probability_models):
        models = probability_models[:2]
        for member, model in zip(Ensemble(models).members, models, strict=True):
            np.testing.assert_array_equal(member.predict(X, verbose=0), model.predict(X, verbose=0))
            np.testing.assert_allclose(member(X), model.predict(X, verbose=0), rtol=1e-6)
            assert member.evaluate(X, LABELS, verbose=0) == pytest.approx(model.evaluate(X, LABELS, verbose=0))

    def test_a_new_model_with_its_weights(self, probability_models):
        models = probability_models[:2]
        for member, model in zip(Ensemble(models).members, models, strict=True):
            new = member.to_model()
            np.testing.assert_array_equal(new.predict(X, verbose=0), model.predict(X, verbose=0))
            assert new is not model and not new.compiled
            # What is done to it changes neither the member nor the model.
            expected = member.predict(X, verbose=0)
            new.layers[0].kernel.assign_add(np.ones((6, 5)))
            np.testing.assert_array_equal(member.predict(X, verbose=0), expected)
            np.testing.assert_array_equal(model.predict(X, verbose=0), expected)

    def test_knows_its_name_and_how_it_came_about(self, probability_models):
        models = probability_models[:2]
        given = {"epoch": 3}
        member = Member(Architecture(models[0]), current_values(models[0]), "cycle 1", given)
        given["epoch"] = 4
        assert member.name == "cycle 1" and member.information == {"epoch": 3}
        assert repr(member) == f"<Member 'cycle 1' of {models[0].name!r}>"
        assert Ensemble(models).members[1].information == {}
