"""Installs kregkit under the newest claimed Python that this machine has, imports all of it and runs doctests.

Where none is newer than the Python that runs this file, that is said and nothing is done.
"""

import configparser
import glob
import os
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Half a minute of doctests.
DOCTESTS = ["kregkit/schedules", "kregkit/layers", "kregkit/optimizers", "kregkit/callbacks", "kregkit/transfer"]
IMPORTS = """
import importlib, pkgutil, kregkit
names = [module.name for module in pkgutil.walk_packages(kregkit.__path__, "kregkit.")]
for name in names:
    try:
        importlib.import_module(name)
    except ImportError as error:
        # Modules of optional libraries.
        if "pip install" not in str(error):
            raise
print(f"{len(names)} modules")
"""


def setup():
    """Returns setup.cfg."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    return config


def needed():
    """Returns what kregkit requires."""
    return setup()["options"]["install_requires"].split("\n")[1:]


def claimed():
    """Returns the versions that setup.cfg claims, newest first."""
    minors = re.findall(r":: 3\.(\d+)", setup()["metadata"]["classifiers"])
    return sorted((int(minor) for minor in minors), reverse=True)


def found(minor):
    """Returns a Python 3.`minor` that starts, on the path or among pyenv's, or `None`."""
    home = os.environ.get("PYENV_ROOT", os.path.expanduser("~/.pyenv"))
    paths = [shutil.which(f"python3.{minor}"), *sorted(glob.glob(f"{home}/versions/3.{minor}.*/bin/python3.{minor}"))]
    for path in filter(None, paths):
        # pyenv's stand-ins for versions that aren't active fail.
        if subprocess.run([path, "-c", "import venv, ensurepip"], capture_output=True).returncode == 0:
            return path
    return None


def main():
    newer = [minor for minor in claimed() if minor > sys.version_info.minor]
    pythons = {minor: path for minor in newer if (path := found(minor))}
    if not pythons:
        print(f"Skipped: no newer Python that is claimed is here (3.{', 3.'.join(map(str, newer))}).")
        return
    minor, path = next(iter(pythons.items()))
    place = ROOT / ".venv-newest"
    subprocess.run([path, "-m", "venv", "--clear", place], check=True)
    python = place / "bin" / "python"
    install = [python, "-m", "pip", "install", "-q"]
    if subprocess.run([*install, *needed(), "pytest", "pytest-xdist", "matplotlib"], cwd=place).returncode:
        print(f"Skipped: what kregkit needs can't be had for Python 3.{minor} here.")
        return
    subprocess.run([*install, "--no-deps", ROOT], check=True, cwd=place)
    compiled = ["-W", "error::SyntaxWarning", "-m", "compileall", "-q", "-f", "kregkit"]
    subprocess.run([python, *compiled], check=True, cwd=ROOT)
    subprocess.run([python, "-c", IMPORTS], check=True, cwd=ROOT)
    tests = ["-q", "--doctest-modules", "-p", "no:cacheprovider", *DOCTESTS]
    subprocess.run([python, "-m", "pytest", *tests], check=True, cwd=ROOT)
    print(f"Python 3.{minor}: {path}")


if __name__ == "__main__":
    main()
