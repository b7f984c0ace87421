"""States in files: what comes back, and what is refused."""

import json
import math
import random

import ml_dtypes
import numpy as np
import pytest

from kregkit._core.state_file import read_state, write_state


def test_everything_comes_back_bit_for_bit(tmp_path):
    state = {
        "plain": [None, True, 3, -0.0, 1e-320, "text", (1, [2])],
        "special": [math.inf, -math.inf],
        "bytes": b"\x00\xff",
        "keys": {1: "one", "$array": 2, (1, 2): 3},
        "arrays": [np.arange(6, dtype="int8").reshape(2, 3), np.zeros((0, 4)), np.float32(0.1), np.array(2.5)],
        "bfloat16": np.arange(3).astype(ml_dtypes.bfloat16),
        "not contiguous": np.arange(12.0).reshape(3, 4).T,
        "random": random.getstate(),
    }
    write_state(tmp_path / "a.state", state)
    back = read_state(tmp_path / "a.state")
    assert back["plain"] == state["plain"] and math.copysign(1, back["plain"][3]) == -1
    for name in ("special", "bytes", "keys", "random"):
        assert back[name] == state[name]
    pairs = [
        *zip(state["arrays"], back["arrays"]),
        *((state[name], back[name]) for name in ("bfloat16", "not contiguous")),
    ]
    for one, other in pairs:
        assert (one.dtype, one.shape) == (other.dtype, other.shape) and one.tobytes() == other.tobytes()
    assert type(back["arrays"][2]) is np.float32 and isinstance(back["arrays"][3], np.ndarray)
    assert math.isnan(read_written(tmp_path, {"nan": math.nan})["nan"])


def read_written(tmp_path, state):
    write_state(tmp_path / "b.state", state)
    return read_state(tmp_path / "b.state")


@pytest.mark.parametrize(
    "value", [object(), {1, 2}, np.array([object()]), lambda: None], ids=["object", "set", "array", "function"]
)
def test_other_values_are_refused_by_their_place(tmp_path, value):
    with pytest.raises(TypeError, match=r"state\['here'\]\[1\]"):
        write_state(tmp_path / "a.state", {"here": [0, value]})
    assert not list(tmp_path.iterdir())


def test_each_damaged_byte_is_noticed(tmp_path):
    path = tmp_path / "a.state"
    write_state(path, {"a": np.arange(4), "b": "text"})
    content = path.read_bytes()
    for index in range(0, len(content), 7):
        damaged = bytearray(content)
        damaged[index] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"a\.state is"):
            read_state(path)
    for length in (0, 10, 30, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"a\.state is"):
            read_state(path)


@pytest.mark.parametrize(
    "header",
    [
        {"state": {"$array": 3}, "arrays": []},
        {"state": {"$call": 0}, "arrays": []},
        {"state": None, "arrays": [["float32", [2**40]]]},
        {"state": None, "arrays": [["float32", [-1]]]},
        {"state": None, "arrays": [["object", [1]]]},
        {"state": None, "arrays": [["no type", [1]]]},
        {"arrays": []},
        [],
    ],
    ids=str,
)
def test_crafted_headers_are_one_named_error(tmp_path, header):
    import hashlib

    text = json.dumps(header).encode()
    body = b"kregkit state 1\n" + len(text).to_bytes(8, "little") + text
    (tmp_path / "a.state").write_bytes(body + hashlib.sha256(body).digest())
    with pytest.raises(ValueError, match=r"a\.state is not a readable state file"):
        read_state(tmp_path / "a.state")
