"""Builds the wheel and checks what it says and holds."""

import email
import pathlib
import subprocess
import sys
import tempfile
import zipfile

with tempfile.TemporaryDirectory() as directory:
    # --no-isolation would need setuptools here; isolation is what a user's pip does.
    subprocess.run([sys.executable, "-m", "build", "--wheel", "-o", directory, "."], check=True, capture_output=True)
    (wheel,) = pathlib.Path(directory).glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = [name for name in names if name.endswith("/METADATA")]
        message = email.message_from_bytes(archive.read(metadata))

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
expected = {"keras", "tensorflow", "tensorflow-datasets", "importlib-resources", "numpy", "scipy", "threadpoolctl"}
assert required == expected, required
assert set(message.get_all("Provides-Extra")) == {"docs", "examples", "lecture", "search", "test", "all"}
strangers = [name for name in names if not name.startswith(("kregkit/", "kregkit-"))]
assert not strangers, strangers
sources = {str(path) for path in pathlib.Path("kregkit").rglob("*.py")}
packed = {name for name in names if name.startswith("kregkit/")}
assert sources <= packed, sources - packed
print(f"{wheel.name}: {len(packed)} files, requires {', '.join(sorted(required))}")
