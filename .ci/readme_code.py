"""Runs the Python code of Markdown files as it stands, each file's blocks in one namespace and an empty directory.

A block directly after a line `<!-- not run -->` is only compiled. With `--draw`, a block that is followed by a picture
writes that picture, beside the file, from Matplotlib's current figure.
"""

import os
import pathlib
import re
import sys
import tempfile
import time

BLOCK = re.compile(r"(<!-- not run -->\n)?```python\n(.*?)```(?:\n\n!\[[^\]]*\]\((\S+\.png)\))?", re.S)
MARKDOWN = [name for name in sys.argv[1:] if name != "--draw"]


def draw(path):
    """Writes Matplotlib's current figure as a small file."""
    import matplotlib.pyplot as plt

    path.parent.mkdir(exist_ok=True)
    plt.gcf().savefig(path, dpi=80, bbox_inches="tight", pil_kwargs={"optimize": True}, metadata={"Software": None})
    plt.close("all")


for name in MARKDOWN:
    path = pathlib.Path(name).resolve()
    text = path.read_text(encoding="utf-8")
    namespace = {"__name__": "__main__"}
    home = os.getcwd()
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)
        for match in BLOCK.finditer(text):
            line = text[: match.start(2)].count("\n")
            code = compile("\n" * line + match.group(2), str(path), "exec")
            if match.group(1):
                continue
            start = time.perf_counter()
            exec(code, namespace)
            if match.group(3) and "--draw" in sys.argv:
                draw(path.parent / match.group(3))
            print(f"{name}:{line + 1} ran in {time.perf_counter() - start:.1f} s", flush=True)
        os.chdir(home)
