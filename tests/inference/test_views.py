"""Views of models with an output per pixel, point or box, and views in files."""

import json
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from kregkit.data import (
    D4,
    Augment,
    ColorJitter,
    Cutout,
    FiveCrop,
    Flips,
    LensDistortion,
    MultiScale,
    RandomCrop,
    RandomFlip,
    RandomResizedCrop,
    RandomRotation,
    RandomStretch,
    RandomTranslation,
    Scales,
    TenCrop,
    ViewProduct,
    Views,
)
from kregkit.inference import Ensemble, marginalize
from kregkit.inference._views import InputViews

pytestmark = pytest.mark.one_in(2)

rng = np.random.default_rng(0)
IMAGES = rng.integers(0, 9, (3, 6, 8, 2)).astype("float32")


def model_of(*parts, shape=(6, 8, 2), inputs=None):
    inputs = keras.Input(shape) if inputs is None else inputs
    x = inputs
    for part in parts:
        x = part(x)
    return keras.Model(inputs, x)


def pixelwise(activation=None, seed=0, shape=(6, 8, 2), classes=2):
    """A 1x1 convolution: what it says of a pixel moves with the pixel."""
    keras.utils.set_random_seed(seed)
    return model_of(layers.Conv2D(classes, 1, activation=activation, bias_initializer="random_normal"), shape=shape)


@keras.saving.register_keras_serializable(package="kregkit_tests")
class Quarters(Views):
    """The four turns of a square image."""

    num_views = 4

    def each(self, images):
        return [keras.ops.rot90(images, turns, axes=(1, 2)) for turns in range(4)]

    def matrices(self, height, width):
        # A quarter turn to the left shows at (x, y) what lies at (-y, x).
        turn = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]])
        return np.array([np.linalg.matrix_power(turn, turns) for turns in range(4)], "float32")


class TestEquivariantModels:
    """What is said of each pixel must be what the model says without views."""

    @pytest.mark.parametrize("views", [Flips(), Flips(True), Augment([RandomFlip("both")]).views(4)], ids=repr)
    def test_mirrored_views_bit_for_bit(self, views):
        model = pixelwise()
        result = marginalize(model, views=views, noise=None, outputs="values").predict(IMAGES, verbose=0)
        np.testing.assert_array_equal(result, model.predict(IMAGES, verbose=0))

    def test_turned_views_bit_for_bit(self):
        images = IMAGES[:, :, :6]
        model = pixelwise(shape=(6, 6, 2))
        result = marginalize(model, views=Quarters(), noise=None, outputs="values").predict(images, verbose=0)
        np.testing.assert_array_equal(result, model.predict(images, verbose=0))

    @pytest.mark.parametrize("activation", ["softmax", None])
    def test_random_shifts_over_the_views_that_saw_a_pixel(self, activation):
        """The convolution has a bias, so that the black border has another prediction than the image."""
        model = pixelwise(activation)
        model.compile("sgd", keras.losses.CategoricalCrossentropy(from_logits=True) if activation is None else "mse")
        views = Augment([RandomFlip("both"), RandomCrop(3), RandomTranslation((0.5, 0.5), (-0.25, -0.25))], (0, 9))
        result, spread = marginalize(model, views=views, noise=None, draws=24, batch_size=24, spread=True)(IMAGES)
        expected = model.predict(IMAGES, verbose=0)
        if activation is None:
            result, expected = keras.ops.softmax(result), keras.ops.softmax(expected)
        # The upper half has left some views, and is in others.
        np.testing.assert_allclose(result, expected, atol=1e-4)
        assert np.asarray(spread["std"]).max() < 1e-2

    def test_a_pixel_that_no_view_shows_is_the_nearest_one(self):
        ramp = np.arange(8, dtype="float32").reshape(1, 1, 8, 1)
        model = model_of(layers.Activation("linear"), shape=(1, 8, 1))
        views = Augment([RandomTranslation(0.0, (0.25, 0.25))], (0, 8))
        result = marginalize(model, views=views, noise=None, draws=3, outputs="values")(ramp)
        np.testing.assert_allclose(np.ravel(result), [0, 1, 2, 3, 4, 5, 5, 5], atol=1e-5)

    def test_affine_views_of_a_ramp(self):
        """Bilinear interpolation is exact on a plane, wherever the view shows it."""
        y, x = np.mgrid[:12, :10].astype("float32")
        plane = (0.3 * x + 0.7 * y)[None, :, :, None]
        model = model_of(layers.Activation("linear"), shape=(12, 10, 1))
        views = Augment([RandomRotation(20, fill="nearest"), RandomStretch(0.3, fill="nearest")], (0, 20))
        result = np.asarray(marginalize(model, views=views, noise=None, draws=32, outputs="values")(plane))
        np.testing.assert_allclose(result[0, 4:8, 3:7], plane[0, 4:8, 3:7], atol=1e-4)

    @pytest.mark.parametrize("stride", [1, 2])
    def test_scales(self, stride):
        y, x = np.mgrid[:8, :12].astype("float32")
        plane = (0.3 * x + 0.7 * y)[None, :, :, None]
        pool = layers.AveragePooling2D(stride) if stride > 1 else layers.Activation("linear")
        model = model_of(pool, shape=(None, None, 1))
        result = marginalize(model, views=MultiScale((8, 16)), noise=None, outputs="values")(plane)
        expected = model(plane)
        assert tuple(result.shape) == tuple(expected.shape)
        np.testing.assert_allclose(result[:, 1:-1, 1:-1], expected[:, 1:-1, 1:-1], atol=1e-4)

    def test_a_stride_and_a_shift_by_whole_cells(self):
        model = model_of(layers.AveragePooling2D(2))
        views = Augment([RandomTranslation((0.3333333, 0.3333333), (-0.25, -0.25))], (0, 9))
        result = marginalize(model, views=views, noise=None, draws=2, outputs="values")(IMAGES)
        np.testing.assert_allclose(result[:, :2, 1:], model(IMAGES)[:, :2, 1:], atol=1e-4)

    def test_infinite_logits_stay(self):
        masked = np.where(IMAGES > 4, -np.inf, IMAGES).astype("float32")[..., :1]
        model = model_of(layers.Activation("linear"), shape=(6, 8, 1))
        model.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=True))
        for views in (Flips(True), Augment([RandomFlip("both"), RandomCrop(1)], (-100, 100))):
            result = marginalize(model, views=views, noise=None, draws=8)(masked)
            assert not np.isnan(result).any()

    def test_a_size_that_is_known_only_when_fed(self):
        model = pixelwise(shape=(None, None, 2))
        dataset = tf.data.Dataset.from_generator(
            lambda: iter([IMAGES]), output_signature=tf.TensorSpec((None, None, None, 2))
        )
        for views in (Flips(True), Augment([RandomFlip("both"), RandomCrop(2)], (0, 9))):
            # Of so many shifts by up to 2 pixels, some show each pixel.
            result = marginalize(model, views=views, noise=None, draws=24, outputs="values").predict(dataset, verbose=0)
            np.testing.assert_allclose(result, model.predict(IMAGES, verbose=0), rtol=1e-5, atol=1e-5)


class TestOutputs:
    def test_members_and_noise(self):
        models = [model_of(layers.Dropout(0.5), *pixelwise("softmax", seed).layers[1:]) for seed in range(2)]
        ensemble = Ensemble(models)
        result = marginalize(ensemble, views=Flips(), noise=None)(IMAGES)
        np.testing.assert_allclose(result, ensemble.predict(IMAGES, verbose=0), rtol=1e-5)
        noisy = marginalize(ensemble, views=Flips(), draws=100, batch_size=300)(IMAGES)
        # Dropout of two inputs with weights of order one: the mean of 400 draws is within 5 deviations of 0.5.
        assert np.abs(np.asarray(noisy).sum(-1) - 1).max() < 1e-4
        few = marginalize(ensemble, views=Flips(), draws=100)(IMAGES[:, :, ::-1])
        assert np.abs(np.asarray(few)[:, :, ::-1] - noisy).max() < 5 * 0.5 / np.sqrt(100)

    def test_some_per_pixel_and_some_per_image(self):
        inputs = keras.Input((6, 8, 2), name="image")
        pixels = layers.Conv2D(2, 1, activation="softmax", name="pixels")(inputs)
        label = layers.Dense(3, activation="softmax", name="label")(layers.Flatten()(inputs))
        model = keras.Model(inputs, {"pixels": pixels, "label": label})
        result = marginalize(model, views=Flips(), noise=None)(IMAGES)
        plain, mirrored = model.predict(IMAGES, verbose=0), model.predict(IMAGES[:, :, ::-1], verbose=0)
        np.testing.assert_allclose(result["pixels"], plain["pixels"], rtol=1e-6)
        np.testing.assert_allclose(result["label"], (plain["label"] + mirrored["label"]) / 2, rtol=1e-5)
        forced = marginalize(model, views=Flips(), noise=None, layout={"pixels": "image"})(IMAGES)
        np.testing.assert_allclose(forced["pixels"], (plain["pixels"] + mirrored["pixels"]) / 2, rtol=1e-5)

    @pytest.mark.parametrize(
        ("shape", "layout"), [((48, 2), "auto"), ((6, 8), "auto"), ((48,), "pixels"), ((48, 1), "auto")]
    )
    def test_pixels_in_other_shapes(self, shape, layout):
        channels = 2 if shape == (48, 2) else 1
        model = model_of(layers.Conv2D(channels, 1), layers.Reshape(shape))
        result = marginalize(model, views=Flips(True), noise=None, outputs="values", layout=layout)(IMAGES)
        np.testing.assert_allclose(result, model(IMAGES), rtol=1e-6, atol=1e-6)

    def test_cells_in_one_axis(self):
        model = model_of(layers.AveragePooling2D(2), layers.Reshape((12, 2)))
        with pytest.raises(ValueError, match="doesn't tell which parts of the image"):
            marginalize(model, views=Flips(), noise=None, outputs="values")(IMAGES)
        result = marginalize(model, views=Flips(), noise=None, outputs="values", layout="pixels")(IMAGES)
        np.testing.assert_allclose(result, model(IMAGES), rtol=1e-6)

    def test_a_pooled_output_that_keeps_its_axes_is_one_per_image(self):
        model = model_of(layers.Conv2D(1, 3), layers.GlobalAveragePooling2D(keepdims=True))
        result = marginalize(model, views=Flips(), noise=None, outputs="values")(IMAGES)
        np.testing.assert_allclose(result, (model(IMAGES) + model(IMAGES[:, :, ::-1])) / 2, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("relative", [True, False])
    @pytest.mark.parametrize("layout", ["xy", "xyxy", "yxyx", "xywh", "center_xywh"])
    def test_points_and_boxes(self, layout, relative):
        """A model that finds the one bright pixel: the same place whatever the views."""
        images = np.zeros((2, 6, 8, 1), "float32")
        images[0, 1, 2] = images[1, 4, 7] = 1.0

        def find(images):
            columns = keras.ops.arange(8, dtype="float32") + 0.5
            rows = keras.ops.arange(6, dtype="float32") + 0.5
            x = keras.ops.sum(images[..., 0] * columns, axis=(1, 2))
            y = keras.ops.sum(images[..., 0] * rows[:, None], axis=(1, 2))
            unit = (8.0, 6.0) if relative else (1.0, 1.0)
            half = 0.5 + 0 * x
            parts = {
                "xy": [(x, 0), (y, 1)],
                "xyxy": [(x - half, 0), (y - half, 1), (x + half, 0), (y + half, 1)],
                "yxyx": [(y - half, 1), (x - half, 0), (y + half, 1), (x + half, 0)],
                "xywh": [(x - half, 0), (y - half, 1), (2 * half, 0), (2 * half, 1)],
                "center_xywh": [(x, 0), (y, 1), (2 * half, 0), (2 * half, 1)],
            }[layout]
            return keras.ops.stack([value / unit[axis] for value, axis in parts], -1)

        model = model_of(layers.Lambda(find), shape=(6, 8, 1))
        name = f"rel_{layout}" if relative else layout
        for views in (Flips(True), Augment([RandomFlip("both")])):
            result = marginalize(model, views=views, noise=None, draws=8, outputs="values", layout=name)(images)
            np.testing.assert_allclose(result, model(images), atol=1e-5)


class TestRefused:
    @pytest.mark.parametrize(
        "views",
        [
            TenCrop(6),
            FiveCrop(6),
            MultiScale((8, 9), TenCrop(6)),
            Augment([LensDistortion()]),
            Augment([RandomCrop(0, 6)]),
            Augment([RandomResizedCrop(6)]).views(3),
            lambda images: [images, images[:, :, ::-1]],
        ],
        ids=lambda views: type(views).__name__,
    )
    def test_views_without_a_way_back(self, views):
        model = pixelwise("softmax", shape=(None, None, 2))
        with pytest.raises(ValueError, match=r"no map back.*layout='image'.*Received: views="):
            marginalize(model, views=views, noise=None).predict(IMAGES, verbose=0)
        assert marginalize(model, views=views, noise=None, layout="image")(IMAGES).shape[0] == 3

    @pytest.mark.parametrize("shape", [(5, 3), (48,), (2, 24, 1), (2, 2, 2, 6)])
    def test_outputs_that_may_be_either(self, shape):
        model = model_of(layers.Flatten(), layers.Dense(int(np.prod(shape))), layers.Reshape(shape))
        with pytest.raises(
            ValueError, match=r"doesn't tell which parts of the image.*layout='image'.*Received: layout='auto'"
        ):
            marginalize(model, views=Flips(), noise=None, outputs="values")(IMAGES)
        views = Augment([ColorJitter(), Cutout(2)], (0, 9))
        if shape[-1] == 3:
            # Where no pixel moves, there is nothing to ask.
            images = np.repeat(IMAGES[..., :1], 3, -1)
            model = model_of(layers.Flatten(), layers.Dense(15), layers.Reshape(shape), shape=(6, 8, 3))
            assert marginalize(model, views=views, noise=None, outputs="values", draws=2)(images).shape == (3, 5, 3)

    def test_bad_layouts(self):
        model = pixelwise("softmax")
        for layout in ("pixel", ["pixels", "image"], {"other": "image"}):
            with pytest.raises(ValueError, match=r"`layout` must.*Received: layout="):
                marginalize(model, views=Flips(), noise=None, layout=layout)(IMAGES)

    def test_inputs_that_are_no_images(self):
        model = model_of(layers.Dense(2), shape=(5, 3))
        x = np.ones((4, 5, 3), "float32")
        with pytest.raises(ValueError, match="shape \\(batch, height, width, channels\\)"):
            marginalize(model, views=Flips(), noise=None, outputs="values")(x)
        with pytest.raises(ValueError, match="doesn't tell which parts"):
            marginalize(model, views=lambda x: [x, x[:, ::-1]], noise=None, outputs="values")(x)


class TestFiles:
    def test_layout_and_own_views_survive(self, tmp_path):
        images = IMAGES[:, :, :6]
        marginal = marginalize(pixelwise("softmax", shape=(6, 6, 2)), views=Quarters(), noise=None, layout=["image"])
        marginal.to_model().save(tmp_path / "turned.keras")
        loaded = keras.models.load_model(tmp_path / "turned.keras")
        np.testing.assert_allclose(loaded(images), marginal(images), rtol=1e-6)

    @pytest.mark.parametrize(
        "views",
        [
            {"views": "load", "arguments": {"name": "digits"}},
            {"module": "kregkit.data", "class_name": "digits", "config": {}, "registered_name": "digits"},
            {"module": "os", "class_name": "function", "config": "system", "registered_name": "system"},
            {"module": "keras.utils", "class_name": "get_file", "config": {}, "registered_name": None},
            # A registered class's name beside a function's, and beside the names that Keras reads in a way of its own.
            {
                "module": "keras.utils",
                "class_name": "function",
                "config": "set_random_seed",
                "registered_name": "kregkit>Flips",
            },
            {"class_name": "__lambda__", "config": {"value": "x"}, "registered_name": "kregkit>Flips"},
            {"registered_name": "kregkit>Flips", "image": "kregkit>Flips"},
            "Flips",
        ],
    )
    def test_names_in_a_file_call_nothing(self, views, tmp_path):
        model = model_of(layers.Flatten(), layers.Dense(2, activation="softmax"))
        marginalize(model, views=Flips(), noise=None).to_model().save(tmp_path / "right.keras")
        with (
            zipfile.ZipFile(tmp_path / "right.keras") as right,
            zipfile.ZipFile(tmp_path / "wrong.keras", "w") as wrong,
        ):
            for name in right.namelist():
                content = right.read(name)
                if name == "config.json":
                    config = json.loads(content)
                    config["config"]["views"]["views"] = views
                    content = json.dumps(config)
                wrong.writestr(name, content)
        with pytest.raises((ValueError, TypeError), match="must be a class or function that is registered"):
            keras.models.load_model(tmp_path / "wrong.keras")

    def test_config_of_input_views(self):
        for views in (Flips(True), Augment([RandomFlip()]), {"image": MultiScale((8, 9), TenCrop(6))}):
            config = json.loads(json.dumps(InputViews(views, 3, "pixels").get_config()))
            again = InputViews.from_config(config)
            assert again.get_config() == InputViews(views, 3, "pixels").get_config()


@pytest.mark.parametrize("views", [Flips(), [Flips(), Scales((1,))], Augment([RandomFlip()])], ids=str)
def test_models_whose_images_have_the_channels_first_are_refused(views):
    head = layers.GlobalMaxPooling2D(data_format="channels_first"), layers.Dense(2, activation="softmax")
    inner = keras.Sequential([keras.Input((2, 6, 8)), layers.Rescaling(0.1), *head])
    for model in (inner, keras.Sequential([keras.Input((2, 6, 8)), inner])):
        with pytest.raises(ValueError, match="channels first.*Permute.*Received: views="):
            marginalize(model, views=views, noise=None, draws=2).predict(IMAGES.transpose(0, 3, 1, 2), verbose=0)
    # The maximum over rows and columns is the same of all flips.
    around = keras.Sequential([keras.Input((6, 8, 2)), layers.Permute((3, 1, 2)), inner])
    marginal = marginalize(around, views=views, noise=None, draws=2)
    np.testing.assert_allclose(marginal.predict(IMAGES, verbose=0), around.predict(IMAGES, verbose=0), atol=1e-6)


def test_maximum_and_products_of_views_against_loops():
    keras.utils.set_random_seed(0)
    body = [layers.GlobalAveragePooling2D(), layers.Dense(3, activation="softmax")]
    model = keras.Sequential([keras.Input((None, None, 1)), layers.Conv2D(4, 3, activation="tanh"), *body])
    model.compile("sgd", "sparse_categorical_crossentropy")
    images = np.random.default_rng(0).normal(size=(3, 8, 8, 1)).astype("float32")
    views = [D4(), Scales((0.75, 1.5))]
    each = np.array([model.predict(view, verbose=0) for view in ViewProduct(views).each(images)])
    assert each.shape == (16, 3, 3)
    largest = each.max(0)
    expected = {"maximum": largest / largest.sum(-1, keepdims=True), "probabilities": each.mean(0)}
    geometric = np.exp(np.log(each).mean(0))
    expected["geometric"] = geometric / geometric.sum(-1, keepdims=True)
    for reduce, result in expected.items():
        marginal = marginalize(model, views=views, noise=None, reduce=reduce)
        np.testing.assert_allclose(marginal.predict(images, verbose=0), result, atol=1e-5)
    with pytest.raises(ValueError, match="of views and members.* Received: reduce='maximum'"):
        marginalize(model, views=views, reduce="maximum")


def test_maximum_of_pixels_is_over_the_views_that_show_them():
    keras.utils.set_random_seed(0)
    body = layers.Conv2D(1, 3, padding="same", activation="sigmoid")
    model = keras.Sequential([keras.Input((6, 6, 1)), body])
    model.compile("sgd", "binary_crossentropy")
    images = np.random.default_rng(0).normal(size=(2, 6, 6, 1)).astype("float32")
    result = marginalize(model, views=D4(), noise=None, reduce="maximum").predict(images, verbose=0)
    each = []
    for k in range(4):
        turned = model.predict(np.ascontiguousarray(np.rot90(images, k, (1, 2))), verbose=0)
        mirrored = model.predict(np.ascontiguousarray(np.rot90(images[:, :, ::-1], k, (1, 2))), verbose=0)
        each += [np.rot90(turned, -k, (1, 2)), np.rot90(mirrored, -k, (1, 2))[:, :, ::-1]]
    np.testing.assert_allclose(result, np.max(each, axis=0), atol=1e-4)
