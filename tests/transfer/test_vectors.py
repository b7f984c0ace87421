import keras
import numpy as np
import pytest

from kregkit.transfer import embedding_from_vectors

GLOVE = "the 0.5 -1.0 2e-1\ncat 1 2 3\n. . . 7 8 9\nDog 4 5 6\n"


def write(tmp_path, text):
    path = tmp_path / "vectors.txt"
    path.write_bytes(text.encode())
    return path


def rows(layer, num):
    return keras.ops.convert_to_numpy(layer(np.arange(num)))


@pytest.mark.parametrize("header", ["", "4 3\n"])
@pytest.mark.parametrize("end", ["\n", " \n", "\r\n"])
@pytest.mark.parametrize("between", [" ", "\t"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_glove_and_word2vec_forms(tmp_path, header, end, between, mark):
    text = (header + GLOVE).replace(" ", between).replace(between.join("..."), ". . .")
    path = write(tmp_path, mark + text.replace("\n", end))
    layer, missing = embedding_from_vectors(["", "cat", "THE", ". . .", "Dog"], path)
    expected = [[0, 0, 0], [1, 2, 3], [0.5, -1, 0.2], [7, 8, 9], [4, 5, 6]]
    np.testing.assert_allclose(rows(layer, 5), expected, rtol=1e-6)
    assert missing == [] and not layer.trainable


def test_missing_words(tmp_path):
    path = write(tmp_path, "".join(f"w{i} {i} {10 + i % 2}\n" for i in range(100)))
    words = [f"w{i}" for i in range(100)] + [f"x{i}" for i in range(400)]
    layer, missing = embedding_from_vectors(words, path)
    assert missing == words[100:]
    drawn = rows(layer, 500)[100:]
    # Mean 49.5 and 10.5, standard deviation 28.9 and 0.5; six standard errors.
    np.testing.assert_allclose(drawn.mean(0), [49.5, 10.5], atol=6 * 28.9 / 20)
    np.testing.assert_allclose(drawn.std(0) / [28.87, 0.5], [1, 1], atol=6 / np.sqrt(800))
    again, _ = embedding_from_vectors(words, path)
    np.testing.assert_array_equal(rows(again, 500), rows(layer, 500))
    zeros, _ = embedding_from_vectors(["w1", "x"], path, missing="zeros")
    assert rows(zeros, 2).tolist() == [[1, 11], [0, 0]]
    with pytest.raises(ValueError, match=r"Received: missing words=\['x'\]"):
        embedding_from_vectors(["w1", "x"], path, missing="error")


def test_in_a_model_behind_text_vectorization(tmp_path):
    text = keras.layers.TextVectorization(output_sequence_length=3)
    text.adapt(["the cat", "a dog"])
    layer, missing = embedding_from_vectors(text.get_vocabulary(), write(tmp_path, GLOVE), missing="zeros")
    assert set(missing) == {"[UNK]", "a", "dog"}
    found = keras.ops.convert_to_numpy(layer(text(["cat the"])))
    np.testing.assert_allclose(found[0], [[1, 2, 3], [0.5, -1, 0.2], [0, 0, 0]], rtol=1e-6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cat 1 2\ndog 3\n", "line=2"),
        ("cat 1 2\n\ndog\n", "line=3"),
        ("2 2\ncat 1 2\ndog 3 x\n", "line=3"),
        ("cat 1 2\ndog 3 nan\n", "2 finite numbers.*line=2"),
        ("2\t2\ncat\t1\t2\ndog\t-inf\t3\n", "2 finite numbers.*line=3"),
        ("cat 1 2\ndog 3 1e39\n", "2 finite numbers.*line=2"),
        ("3 2\ncat 1 2\ndog 3 4\n", "words=2"),
        ("", "no vectors"),
        ("2 3\n", "no vectors"),
        ("bird 1 2\n", "None of the 2 words"),
    ],
)
def test_malformed_files_are_told_by_line(tmp_path, text, message):
    with pytest.raises(ValueError, match=message) as error:
        embedding_from_vectors(["cat", "dog"], write(tmp_path, text))
    assert "Received: " in str(error.value)


def test_refuses(tmp_path):
    path = write(tmp_path, GLOVE)
    with pytest.raises(ValueError, match="`missing` must be one of"):
        embedding_from_vectors(["cat"], path, missing="mean")
    with pytest.raises(ValueError, match="`vocabulary` must be a list of words"):
        embedding_from_vectors([], path)
    with pytest.raises(FileNotFoundError):
        embedding_from_vectors(["cat"], tmp_path / "absent.txt")


def test_the_word_as_written_comes_first_and_the_first_of_two_lines(tmp_path):
    path = write(tmp_path, "us 1 2\nUS 3 4\nUS 5 6\n")
    layer, missing = embedding_from_vectors(["US", "us", "Us"], path)
    assert rows(layer, 3).tolist() == [[3, 4], [1, 2], [1, 2]] and missing == []


def test_arguments_reach_the_layer(tmp_path):
    path = write(tmp_path, GLOVE)
    layer, _ = embedding_from_vectors(["cat", "the", "unicorn"], path, trainable=True, seed=1, name="words")
    assert layer.trainable and layer.name == "words"
    other, _ = embedding_from_vectors(["cat", "the", "unicorn"], path, seed=2)
    same = (rows(layer, 3) == rows(other, 3)).all(1)
    assert same.tolist() == [True, True, False]
