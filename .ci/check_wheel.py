"""Builds the wheel and the source archive, checks what they hold, and uses the wheel outside the source tree."""

import email
import importlib.metadata
import os
import pathlib
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile

from packaging.requirements import Requirement

# What a user does outside the source tree, in an environment that holds the wheel and what it declares, and no more.
USE = """
import importlib.util
import keras, kregkit, numpy
for room in kregkit.__all__[1:]:
    getattr(kregkit, room)
model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
model.compile("sgd", "mse")
x = numpy.ones((8, 2), "float32")
kit = [kregkit.callbacks.Warmup(1), kregkit.callbacks.PolyakAveraging(0.9)]
model.fit(x, x[:, :1], epochs=2, verbose=0, callbacks=kit)
images = kregkit.data.pipeline((numpy.zeros((4, 8, 8, 3), "uint8"), numpy.arange(4)), 2, [kregkit.data.RandomFlip()])
assert next(iter(images))[0].shape == (2, 8, 8, 3)
assert importlib.util.find_spec("tensorflow_datasets") is None
try:
    kregkit.data.digits()
except ImportError as error:
    assert "pip install tensorflow-datasets importlib_resources" in str(error), error
print(kregkit.__file__, kregkit.__version__)
"""


def declared(requirements, extra="", known=None):
    """Returns the names of all distributions that requirements lead to, and that are installed here."""
    known = set() if known is None else known
    for text in requirements:
        requirement = Requirement(text)
        name = re.sub("[-_.]+", "-", requirement.name).lower()
        if name in known or (requirement.marker and not requirement.marker.evaluate({"extra": extra})):
            continue
        try:
            further = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            sys.exit(f"{name}, which the wheel needs, isn't installed here")
        known.add(name)
        for one in {"", *requirement.extras}:
            declared(further, one, known)
    return known


def environment(place, names):
    """Makes an empty virtual environment with links to these distributions' files; returns its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
    (packages,) = place.glob("lib/python*/site-packages")
    for name in names:
        distribution = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files if file.parts[0] not in ("..", "__pycache__")}:
            target = pathlib.Path(distribution.locate_file(top)).resolve()
            if target.exists() and not (packages / top).exists():
                (packages / top).symlink_to(target)
    return place / "bin" / "python", packages


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
    python, packages = environment(pathlib.Path(directory, "empty"), declared(message.get_all("Requires-Dist")))
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", packages, wheel]
    subprocess.run(install, check=True)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    used = subprocess.run([python, "-c", USE], cwd=directory, env=clean, capture_output=True, text=True)
    assert used.returncode == 0, used.stderr
    assert used.stdout.split()[0].startswith(str(packages)), used.stdout

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
expected = {"keras", "tensorflow", "numpy", "rich", "scipy", "threadpoolctl"}
assert required == expected, required
extras = {"all", "docs", "examples", "lecture", "notebooks", "search", "test", "tfds"}
assert set(message.get_all("Provides-Extra")) == extras, message.get_all("Provides-Extra")
strangers = [name for name in names if not name.startswith(("kregkit/", "kregkit-"))]
assert not strangers, strangers
sources = {str(path) for path in pathlib.Path("kregkit").rglob("*.py")}
packed = {name for name in names if name.startswith("kregkit/")}
assert sources <= packed, sources - packed
tracked = subprocess.run(
    ["git", "ls-files", "docs", "examples", "notebooks", "tests"], capture_output=True, text=True
).stdout.split()
assert set(tracked) <= shipped, sorted(set(tracked) - shipped)
print(f"{wheel.name}: {len(packed)} files, requires {', '.join(sorted(required))}")
