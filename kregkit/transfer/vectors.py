"""Pretrained word vectors."""

import pathlib
from collections.abc import Sequence
from typing import Any, Literal

import keras
import numpy as np

from kregkit._core import rules
from kregkit._core.checks import check_choice, shown
from kregkit._core.types import Path


@rules.checked(
    trainable=rules.boolean,
    seed=rules.whole(0),
    name=rules.word(),
    file=rules.path,
)
def embedding_from_vectors(
    vocabulary: Sequence[str],
    file: Path,
    missing: Literal["normal", "zeros", "error"] = "normal",
    trainable: bool = False,
    seed: int = 0,
    name: str = "embedding",
) -> Any:
    """Returns an `Embedding` layer filled with pretrained word vectors, and the words that have none.

    The file holds a word and its numbers on every line, as GloVe's text files do, separated by a space or a tab; a
    first line with two counts, as word2vec's have, is recognised. Words may contain spaces, except on the first line of
    a file without counts. Only the vocabulary's lines are read as numbers and kept in memory. If the file lacks a word
    as written, its lower-case form is taken.

    Args:
        vocabulary: List of words, in the order of their ids; such as `TextVectorization.get_vocabulary()`.
        file: Path of the text file, UTF-8, with a byte order mark or without.
        missing: `"normal"` draws each number with the mean and standard deviation that it has in the vectors of the
            file; `"zeros"`; or `"error"`. Empty words (padding) are always zeros. Defaults to `"normal"`.
        trainable: Boolean, whether the vectors train. Defaults to `False`.
        seed: Integer, for the draws.
        name: String, the layer's name.

    Returns:
        `(layer, missing_words)`: a built `keras.layers.Embedding` with `len(vocabulary)` rows, and a list.

    Raises:
        ValueError: A line has fewer numbers than the first, or a word of the vocabulary has an entry that is no number,
            NaN, or infinite in float32 (the message names the line); the first line announces another number of words;
            no word of the vocabulary is in the file, or a word is missing with `missing="error"`.

    Example:

    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "vectors.txt"
    >>> _ = path.write_text("cat 1.0 2.0\\ndog 3.0 4.0\\n")
    >>> layer, absent = embedding_from_vectors(["", "dog", "unicorn"], path)
    >>> keras.ops.convert_to_numpy(layer(np.array([1]))).tolist(), absent
    ([[3.0, 4.0]], ['unicorn'])

    References: [Pennington et al., 2014](https://nlp.stanford.edu/projects/glove/),
    [Mikolov et al., 2013](https://arxiv.org/abs/1301.3781)
    """
    check_choice("missing", missing, ("normal", "zeros", "error"))
    # A string is a sequence of its letters; a set has no order.
    listed = hasattr(vocabulary, "__iter__") and not isinstance(vocabulary, (str, bytes, dict, set, frozenset))
    words = list(vocabulary) if listed else []
    if not words or any(not isinstance(word, str) for word in words):
        raise ValueError(f"`vocabulary` must be a list of words. Received: vocabulary={shown(vocabulary)}")
    if not pathlib.Path(file).is_file():
        raise FileNotFoundError(f"`file` must be a file of word vectors. Received: file={str(file)!r}")
    vocabulary = words
    wanted = set(vocabulary) | {word.lower() for word in vocabulary}
    vectors, dim = _read(pathlib.Path(file), wanted)
    rows = [vectors.get(word, vectors.get(word.lower())) for word in vocabulary]
    absent = [word for word, row in zip(vocabulary, rows) if row is None and word]
    known = [row for row in rows if row is not None]
    if not known:
        raise ValueError(f"None of the {len(vocabulary)} words is in the file. Received: file={str(file)!r}")
    if absent and missing == "error":
        raise ValueError(f"{len(absent)} words are not in the file. Received: missing words={absent[:10]}")
    table = np.stack(known)
    rng = np.random.default_rng(seed)
    matrix = np.zeros((len(vocabulary), dim), "float32")
    for index, (word, row) in enumerate(zip(vocabulary, rows)):
        if row is not None:
            matrix[index] = row
        elif word and missing == "normal":
            matrix[index] = rng.normal(table.mean(0), table.std(0))
    layer = keras.layers.Embedding(len(vocabulary), dim, trainable=trainable, name=name)
    layer.build(())
    layer.set_weights([matrix])
    return layer, absent


def _read(path, wanted):
    """Returns the wanted words' vectors, and their length."""
    vectors, dim, announced, num_words = {}, None, None, 0
    with open(path, encoding="utf-8-sig", errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            pieces = line.replace("\t", " ").rstrip("\r\n ").split(" ")
            if number == 1 and len(pieces) == 2 and all(piece.isdigit() for piece in pieces):
                announced, dim = (int(piece) for piece in pieces)
                continue
            if pieces == [""]:
                continue
            num_words += 1
            dim = max(len(pieces) - 1, 1) if dim is None else dim
            word = " ".join(pieces[:-dim])
            row = _numbers(pieces[-dim:]) if word in wanted and word not in vectors else None
            if not word or (row is not None and not np.isfinite(row).all()):
                raise ValueError(
                    f"Every line must hold a word and {dim} finite numbers. Received: {path}, line={number}"
                )
            if row is not None:
                vectors[word] = row
    if not num_words:
        raise ValueError(f"The file holds no vectors. Received: file={str(path)!r}")
    if announced is not None and announced != num_words:
        raise ValueError(
            f"The first line announces {announced} words: the file is damaged. Received: {path}, words={num_words}"
        )
    return vectors, dim


def _numbers(pieces):
    """Returns an array, NaN throughout where a piece is no number."""
    try:
        # What float32 can't hold is infinite.
        with np.errstate(over="ignore"):
            return np.array(pieces, "float64").astype("float32")
    except ValueError:
        return np.full(len(pieces), np.nan, "float32")
