"""What a notebook shows of a report: its text, with aligned columns as HTML tables."""

import html
import re
import sys
from typing import Any

_COLORS = {"pass": "#2e7d32", "warn": "#b26a00", "fail": "#c62828"}
_TABLE = '<div style="overflow-x: auto"><table style="font-size: 90%">{}</table></div>'


def in_notebook() -> bool:
    """Returns whether this code runs in a notebook, where lines can't be drawn anew without widgets."""
    ipython = sys.modules.get("IPython")
    return hasattr(ipython.get_ipython() if ipython else None, "kernel")


class Notebook:
    """An object that prints as text, and in notebooks as the same text in HTML, without JavaScript."""

    def _repr_html_(self) -> str:
        return as_html(self._notebook_text())

    def _notebook_text(self) -> str:
        return str(self)


def as_html(text: str) -> str:
    """Returns a text as HTML: a paragraph of lines in columns, two spaces apart, becomes a table; others stay lines.

    >>> as_html("name   error\\n---\\nmean   0.25")[:60]
    '<div style="overflow-x: auto"><table style="font-size: 90%">'
    """
    parts = []
    for block in re.split(r"\n\s*\n", text.strip("\n")):
        lines = [line for line in block.split("\n") if line.strip("- ")]
        columns = _columns(lines)
        if len(lines) > 1 and len(columns) > 1:
            parts.append(
                _TABLE.format("".join(_row(line, columns, "td" if row else "th") for row, line in enumerate(lines)))
            )
        else:
            parts.append("<p>" + "<br>".join(_indented(line) for line in lines) + "</p>")
    return "".join(parts)


def _columns(lines: list[str]) -> list[tuple[int, int]]:
    """Returns where columns begin and end: between them two or more places are empty in every line."""
    width = max(map(len, lines), default=0)
    filled = "".join("x" if any(line[place : place + 1].strip() for line in lines) else " " for place in range(width))
    # What is one space apart belongs together.
    starts = [match.start() for match in re.finditer(r"x+(?: x+)*", filled)]
    return list(zip(starts, [*starts[1:], width]))


def _row(line: str, columns: list[tuple[int, int]], tag: str) -> str:
    cells: list[Any] = [line[start:end].strip() for start, end in columns]
    return "<tr>" + "".join(_cell(cell, tag) for cell in cells) + "</tr>"


def _cell(text: str, tag: str) -> str:
    color = _COLORS.get(text)
    style = "text-align: left" + (f"; color: {color}; font-weight: bold" if color else "")
    return f'<{tag} style="{style}">{html.escape(text)}</{tag}>'


def _indented(line: str) -> str:
    spaces = len(line) - len(line.lstrip())
    return "&nbsp;" * spaces + html.escape(line.strip())
