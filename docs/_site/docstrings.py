"""Docstrings as the site shows them: read from the sources, doctests in code blocks."""

import ast
import functools
import re

import griffe


@functools.cache
def _constants(file):
    """Returns the strings that a module assigns to names, which docstrings are made of."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    assigned = [node for node in tree.body if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)]
    return {
        node.targets[0].id: node.value.value
        for node in assigned
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    }


def docstring(file, node):
    """Returns the docstring of a class or function, with what its module fills in when it is imported."""
    written = ast.get_docstring(node) or ""
    for statement in node.body:
        if isinstance(statement, ast.Assign) and getattr(statement.targets[0], "id", "") == "__doc__":
            # One text for several classes: `__doc__ = _DOCSTRING.format(num=1)`.
            code = compile(ast.Expression(statement.value), str(file), "eval")
            written = eval(code, {"__builtins__": {}}, dict(_constants(file)))
    if "{arguments}" in written:
        # What the mixing operations share: `_ARGUMENTS`, with each one's own default.
        defaults = {}
        for method in node.body:
            if getattr(method, "name", "") == "__init__":
                values = [ast.literal_eval(default) for default in method.args.defaults]
                names = [argument.arg for argument in method.args.args][-len(values) :]
                defaults = dict(zip(names, values))
        filled = _constants(file)["_ARGUMENTS"].strip("\n").format(**defaults)
        written = written.replace("{arguments}", re.sub("^    ", "", filled, flags=re.M).strip())
    first, _, rest = written.partition("\n")
    indented = re.search(r"^( +)\S", rest, re.M) and not re.search(r"^\S", rest, re.M)
    return f"{first}\n{re.sub('^    ', '', rest, flags=re.M)}" if indented else written


def parted(text):
    """Returns a docstring whose `a, b: about` among the attributes is a line for each name."""

    def lines(section):
        return re.sub(
            r"^( +)(\w+(?:, \w+)+)(: .*)$",
            lambda match: "\n".join(f"{match[1]}{name}{match[3]}" for name in match[2].split(", ")),
            section[0],
            flags=re.M,
        )

    return re.sub(r"^Attributes:\n(?: +.*\n?)+", lines, text, flags=re.M)


def fenced(text):
    """Returns a docstring with each doctest, up to the next empty line, in a code block."""
    lines, inside = [], False
    for line in text.split("\n"):
        if line.lstrip().startswith(">>> ") and not inside:
            lines += ["", "```pycon"]
            inside = True
        elif inside and not line.strip():
            lines.append("```")
            inside = False
        lines.append(line)
    return "\n".join([*lines, "```"] if inside else lines)


class Doctests(griffe.Extension):
    """Rewrites every docstring while the package is read."""

    def on_class(self, *, cls, **kwargs):
        if not cls.is_alias and cls.filepath.suffix == ".py":
            for node in ast.walk(ast.parse(cls.filepath.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ClassDef) and node.name == cls.name:
                    text = docstring(cls.filepath, node)
                    if text and text != ast.get_docstring(node):
                        cls.docstring = griffe.Docstring(text, parent=cls, lineno=node.lineno, endlineno=node.lineno)

    def on_object(self, *, obj, **kwargs):
        if not obj.is_alias and obj.docstring is not None:
            obj.docstring.value = fenced(parted(obj.docstring.value))
