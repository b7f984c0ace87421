"""Makes the notebooks from the flat scripts beside this file, and runs them.

    python notebooks/make.py            # writes NAME.ipynb with outputs, from NAME.py
    python notebooks/make.py quickstart # one of them
    python notebooks/make.py --check    # runs them all and writes nothing; fails if a stored notebook is out of date

A script has cells in the percent format: `# %% [markdown]` begins text, `# %%` begins code. Edit the script, never the
notebook. Outputs must stay readable on a phone: below 300 kB, without control characters and without warnings.
"""

import os
import pathlib
import re
import sys
import tempfile
import time

import nbformat
from nbclient import NotebookClient

HERE = pathlib.Path(__file__).resolve().parent
NAMES = ["quickstart", "own_images", "babysitting_and_transfer"]
LARGEST, SECONDS = 300_000, 300
CELL = re.compile(r"^# %%(?: \[(markdown)\])?\n(.*?)(?=^# %%|\Z)", re.M | re.S)
# What TensorFlow logs of the machine, whatever its log level: no message of Python begins like this.
NOTE = re.compile(
    r"^(?:WARNING: All log messages before absl::InitializeLog|[IWE]\d{4} \S+ +\d+ \w+\.cc:\d+\]).*\n", re.M
)
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


def cells(name):
    """Yields whether a cell is text, and its source."""
    for markdown, source in CELL.findall((HERE / f"{name}.py").read_text(encoding="utf-8")):
        yield bool(markdown), re.sub(r"^# ?", "", source, flags=re.M).strip() if markdown else source.strip()


def notebook(name):
    """Returns a script as a notebook without outputs."""
    made = nbformat.v4.new_notebook()
    made.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for index, (markdown, source) in enumerate(cells(name)):
        new = nbformat.v4.new_markdown_cell if markdown else nbformat.v4.new_code_cell
        made.cells.append(new(source, id=f"cell-{index}"))
    return made


def execute(made):
    """Runs a notebook in an empty directory, in place."""
    # Figures belong into the notebook, whatever backend the caller asks for.
    os.environ.pop("MPLBACKEND", None)
    with tempfile.TemporaryDirectory() as directory:
        place = {"metadata": {"path": directory}}
        NotebookClient(made, timeout=SECONDS, kernel_name="python3", record_timing=False, resources=place).execute()
    for cell in made.cells:
        for output in cell.get("outputs", ()):
            if output.get("name") == "stderr":
                output.text = NOTE.sub("", output.text)
        if "outputs" in cell:
            cell.outputs = joined(cell.outputs)


def joined(outputs):
    """Returns outputs without empty ones, and what was printed in a row as one."""
    kept = []
    for output in outputs:
        if output.output_type == "stream" and kept and kept[-1].get("name") == output.name:
            kept[-1].text += output.text
        elif output.get("text", "x"):
            kept.append(output)
    return kept


def faults(made):
    """Yields what a reader of the notebook would stumble over."""
    size = len(nbformat.writes(made))
    if size >= LARGEST:
        yield f"{size} bytes, {LARGEST} at most"
    for index, cell in enumerate(made.cells):
        for output in cell.get("outputs", ()):
            texts = [output.get("text", ""), *(str(value) for value in output.get("data", {}).values())]
            if any(CONTROL.search(text) for text in texts):
                yield f"control characters below cell {index}: {texts}"
            if output.get("name") == "stderr":
                yield f"warnings below cell {index}: {output.text}"


def main():
    check = "--check" in sys.argv
    bad = []
    for name in [name for name in sys.argv[1:] if name in NAMES] or NAMES:
        path, made = HERE / f"{name}.ipynb", notebook(name)
        if check:
            stored = nbformat.read(path, as_version=4)
            if [cell.source for cell in stored.cells] != [cell.source for cell in made.cells]:
                bad.append(f"{path.name} isn't what {name}.py makes: run `python notebooks/make.py`")
            bad += [f"{path.name}: {fault}" for fault in faults(stored)]
        start = time.perf_counter()
        execute(made)
        bad += [f"{name}, run now: {fault}" for fault in faults(made)]
        if not check:
            nbformat.write(made, path)
        print(f"{name}: {len(made.cells)} cells ran in {time.perf_counter() - start:.0f} s", flush=True)
    sys.exit("\n".join(bad) or 0)


if __name__ == "__main__":
    main()
