"""Builds the wheel and the source archive, checks what they hold, and uses the wheel outside the source tree."""

import email
import os
import pathlib
import subprocess
import sys
import tarfile
import tempfile
import zipfile

USE = """
import keras, kregkit, numpy
from kregkit.callbacks import PolyakAveraging, Warmup
model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
model.compile("sgd", "mse")
x = numpy.ones((8, 2), "float32")
model.fit(x, x[:, :1], epochs=2, verbose=0, callbacks=[Warmup(1), PolyakAveraging(0.9)])
print(kregkit.__file__, kregkit.__version__)
"""

with tempfile.TemporaryDirectory() as directory:
    # --no-isolation would need setuptools here; isolation is what a user's pip does.
    subprocess.run([sys.executable, "-m", "build", "-o", directory, "."], check=True, capture_output=True)
    (wheel,) = pathlib.Path(directory).glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = [name for name in names if name.endswith("/METADATA")]
        message = email.message_from_bytes(archive.read(metadata))
    (sdist,) = pathlib.Path(directory).glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        shipped = {name.partition("/")[2] for name in archive.getnames()}
    # The wheel's own files, before the checkout's and the editable install's, in a process that stands elsewhere.
    place = pathlib.Path(directory, "installed")
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", place, wheel]
    subprocess.run(install, check=True)
    used = subprocess.run(
        [sys.executable, "-c", USE], cwd=directory, env={**os.environ, "PYTHONPATH": str(place)}, check=True,
        capture_output=True, text=True,
    ).stdout.split()  # fmt: skip
    assert used[0].startswith(str(place)), used

version = {}
exec(pathlib.Path("kregkit/_version.py").read_text(), version)
assert message["Name"] == "kregkit", message["Name"]
assert message["Version"] == version["__version__"], message["Version"]
assert message["License"] == "Apache-2.0", message.items()
assert message["Description-Content-Type"] == "text/markdown"
required = {
    dependency.split(">")[0].split(";")[0].strip().replace("_", "-")
    for dependency in message.get_all("Requires-Dist")
    if "extra ==" not in dependency
}
expected = {
    "keras",
    "tensorflow",
    "tensorflow-datasets",
    "importlib-resources",
    "numpy",
    "rich",
    "scipy",
    "threadpoolctl",
}
assert required == expected, required
assert set(message.get_all("Provides-Extra")) == {"docs", "examples", "lecture", "search", "test", "all"}
strangers = [name for name in names if not name.startswith(("kregkit/", "kregkit-"))]
assert not strangers, strangers
sources = {str(path) for path in pathlib.Path("kregkit").rglob("*.py")}
packed = {name for name in names if name.startswith("kregkit/")}
assert sources <= packed, sources - packed
tracked = subprocess.run(
    ["git", "ls-files", "docs", "examples", "tests"], capture_output=True, text=True
).stdout.split()
assert set(tracked) <= shipped, sorted(set(tracked) - shipped)
print(f"{wheel.name}: {len(packed)} files, requires {', '.join(sorted(required))}")
