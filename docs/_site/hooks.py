"""What `mkdocs build` makes beside the Markdown in `docs/`: the reference, the symbol index, the cards, the scripts.

Everything is read from the sources by `ast`: the site is built where neither TensorFlow nor kregkit is installed.
"""

import ast
import base64
import functools
import json
import pathlib
import re
import tomllib

from docstrings import docstring
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "kregkit"
ROOMS = sorted(path.parent.name for path in PACKAGE.glob("[a-z]*/__init__.py"))
# What a reader wants first stands first; pages that aren't named here follow.
PAGES = ["in_your_project", "cheat_sheet", "questions", "coming_from", "works_with", "lecture", "claims"]
NOTEBOOKS = ["quickstart", "own_images", "babysitting_and_transfer"]
DESIGN = ["design", "keras_notes"]
FROM_ROOT = {"changelog": "CHANGELOG.md", "contributing": "CONTRIBUTING.md", "conduct": "CODE_OF_CONDUCT.md"}
REFERENCES = re.compile(r"^References?:\s.*?(?=\n\n|\Z)", re.S | re.M)
EXAMPLE = re.compile(r"^\s*>>> .*?(?=\n\s*\n|\Z)", re.S | re.M)
# Code in running text; what is inside links, blocks and headings stays as it is.
CODE = re.compile(r"(<a\b.*?</a>|<pre\b.*?</pre>|<h[1-6]\b.*?</h[1-6]>)|<code>([^<]+)</code>", re.S)
QUALIFIED = re.compile(rf"(?:kregkit\.)?({'|'.join(ROOMS)})\.(\w+)(?:[.(].*)?", re.S)
CODE_IN_CELL = re.compile(r"<code>([^<]+)</code>")
BARE = re.compile(r"([A-Z]\w+)(?:\(.*)?", re.S)


def public_names(room):
    """Returns a room's docstring, and what it offers: `{name: (file, node)}`."""
    tree = ast.parse((PACKAGE / room / "__init__.py").read_text(encoding="utf-8"))
    offered, origins = [], {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            origins |= {alias.name: ROOT / (node.module.replace(".", "/") + ".py") for alias in node.names}
        elif isinstance(node, ast.Assign) and node.targets[0].id == "__all__":
            offered = ast.literal_eval(node.value)
    return ast.get_docstring(tree) or "", {name: (origins[name], find(origins[name], name)) for name in offered}


def find(file, name):
    """Returns the class or function `name` of a file."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return node
    raise PluginError(f"{file} has no class or function {name}")


@functools.cache
def offered(room):
    """Returns the names that a room offers."""
    return frozenset(public_names(room)[1])


def first_line(file, node):
    return docstring(file, node).split("\n\n")[0].replace("\n", " ")


def reference_page(room):
    """Returns the page that shows all of a room's public names, by mkdocstrings."""
    about, names = public_names(room)
    guide = f"The guide: [{room}](../{room}.md).\n\n" if (ROOT / "docs" / f"{room}.md").exists() else ""
    lines = [f"# kregkit.{room}\n", about, "\n", guide]
    return "\n".join(lines + [f"::: kregkit.{room}.{name}\n" for name in names])


def symbol_index():
    """Returns the page that lists every public name with its first line."""
    rows = []
    for room in ROOMS:
        for name, (file, node) in public_names(room)[1].items():
            kind = "class" if isinstance(node, ast.ClassDef) else "function"
            named = f"{reference_link(f'{room}.{name}', name)}<br>{room}, {kind}"
            rows.append((name.lower(), room, f"| {named} | {cell(first_line(file, node))} |"))
    table = "\n".join(row for *_, row in sorted(rows))
    return f"# Symbols\n\nEvery public name.\n\n| name | what it does |\n|---|---|\n{table}\n"


def cell(text):
    return text.replace("|", "\\|")


def cards_page():
    """Returns the page of cards: what the sources say, and what `cards.toml` adds to it."""
    with open(ROOT / "docs" / "_site" / "cards.toml", "rb") as file:
        cards = tomllib.load(file)
    check_cards(cards)
    text = ["# Cards\n", cards.pop("about")]
    for title, card in cards.items():
        room, name = card["symbol"].split(".")
        origin, node = public_names(room)[1][name]
        doc = docstring(origin, node)
        # The first example, or the first one with the word that the card names.
        examples, references = EXAMPLE.findall(doc), REFERENCES.findall(doc)
        example = next((text for text in examples if card.get("example", "") in text), None)
        if "`" in card.get("equation", ""):
            raise PluginError(f"The card {title!r} has a ` in its equation, which is set in code as a whole.")
        links = " ".join(reference_link(symbol, symbol) for symbol in [card["symbol"], *card.get("also", [])])
        missing = [key for key in ("equation", "settings", "hurts", "cost") if key not in card]
        if example is None or missing or not (references or "reference" in card):
            lacks = missing or ("a doctest or a reference",)
            raise PluginError(f"The card {title!r} lacks {', '.join(lacks)}")
        reference = card.get("reference") or re.sub(r"^References?: ", "", " ".join(references[0].split()))
        text += [
            f"## {title}\n",
            card.get("what", first_line(origin, node)).rstrip() + "\n",
            f"`{card['equation']}`\n",
            f"```pycon\n{example}\n```\n",
            "| | |\n|---|---|",
            f"| settings | {cell(card['settings'])} |",
            f"| when it hurts | {cell(card['hurts'])} |",
            f"| cost | {cell(card['cost'])} |",
            f"| reference | {cell(reference)} |",
            f"| all arguments | {links} |\n",
        ]
    return "\n".join(text)


def reference_link(symbol, text):
    return f"[`{text}`](reference/{symbol.split('.')[0]}.md#kregkit.{symbol})"


def check_cards(cards):
    """Raises an error if a public name has no card and isn't listed as one that needs none, or the other way round."""
    without = set()
    for line in cards.pop("without").split("\n"):
        room, _, names = line.partition(":")
        listed = public_names(room)[1] if names.strip() == "*" else names.split()
        without |= {f"{room}.{name}" for name in listed}
    tables = [card for card in cards.values() if isinstance(card, dict)]
    carded = {symbol for card in tables for symbol in (card["symbol"], *card.get("also", []))}
    public = {f"{room}.{name}" for room in ROOMS for name in public_names(room)[1]}
    faults = {
        "have no card (docs/_site/cards.toml)": public - carded - without,
        "have a card and are listed as `without`": carded & without,
        "are in docs/_site/cards.toml and not public": (carded | without) - public,
    }
    wrong = [f"{', '.join(sorted(names))} {what}" for what, names in faults.items() if names]
    if wrong:
        raise PluginError("; ".join(wrong))


def script_page(path):
    """Returns an example's page: its docstring as text, and its code below the docstring's first line."""
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    title, _, rest = ast.get_docstring(tree).partition("\n")
    code = "".join(source.splitlines(keepends=True)[tree.body[0].end_lineno :])
    return f'# {path.stem}\n\n{title}\n{rest}\n\n````python\n"""{title}"""\n{code}````\n'


def notebook_pages():
    """Yields the files of the notebooks' pages: text, code, and the outputs that the notebooks were stored with."""
    for path in notebooks():
        lines = []
        for index, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
            source = "".join(cell["source"])
            if cell["cell_type"] == "markdown":
                source = re.sub(r"\]\(\.\./docs/", "](../", source)
                lines.append(re.sub(r"\]\((\w+)\.ipynb\)", r"](\1.md)", source))
                continue
            lines.append(f"```python\n{source}\n```")
            for number, output in enumerate(cell["outputs"]):
                data = {kind: "".join(value) for kind, value in output.get("data", {}).items()}
                if "image/png" in data:
                    picture = f"{path.stem}_{index}_{number}.png"
                    yield f"notebooks/{picture}", base64.b64decode(data["image/png"])
                    lines.append(f"![What the code above draws]({picture})")
                elif "text/html" in data:
                    lines.append(f'<div class="output">{data["text/html"]}</div>')
                else:
                    lines.append(f"```text\n{''.join(output.get('text', data.get('text/plain', ''))).rstrip()}\n```")
        yield f"notebooks/{path.stem}.md", "\n\n".join(lines) + "\n"


def notebooks():
    return [path for stem in NOTEBOOKS if (path := ROOT / "notebooks" / f"{stem}.ipynb").exists()]


def scripts():
    return sorted(path for path in (ROOT / "examples").glob("[a-z]*.py"))


def on_config(config):
    """Lays out the navigation; a page of `docs/` that isn't named in it stands among the rooms' pages."""
    written = {path.stem for path in (ROOT / "docs").glob("*.md")}
    first = [f"{page}.md" for page in PAGES if page in written]
    rooms = sorted(written - set(PAGES) - set(DESIGN) - {"index"})
    config.nav = [
        {"Start": ["index.md", *first, "cards.md"]},
        {"Guides": [f"{page}.md" for page in rooms]},
        {"Notebooks": [f"notebooks/{path.stem}.md" for path in notebooks()]},
        {"Examples": [f"examples/{path.stem}.md" for path in scripts()]},
        {"Reference": ["symbols.md", *(f"reference/{room}.md" for room in ROOMS)]},
        {"Inside": [f"{page}.md" for page in DESIGN] + ["benchmarks.md", *(f"{page}.md" for page in FROM_ROOT)]},
    ]
    return config


def on_files(files, config):
    """Adds the pages that aren't written by hand."""
    pages = {"symbols.md": symbol_index(), "cards.md": cards_page()}
    pages |= {f"reference/{room}.md": reference_page(room) for room in ROOMS}
    pages |= {f"examples/{path.stem}.md": script_page(path) for path in scripts()}
    pages |= dict(notebook_pages())
    pages["benchmarks.md"] = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    pages |= {f"{page}.md": (ROOT / name).read_text(encoding="utf-8") for page, name in FROM_ROOT.items()}
    for name, content in pages.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown, page, config, files):
    """Turns links that hold on the repository's pages into links that hold on the site."""
    markdown = re.sub(r"\]\(\.\./examples/(\w+)\.py\)", r"](examples/\1.md)", markdown)
    markdown = re.sub(r"\]\(\.\./examples/?\)", "](examples/quickstart.md)", markdown)
    markdown = re.sub(r"\]\(\.\./notebooks/(\w+)\.ipynb\)", r"](notebooks/\1.md)", markdown)
    markdown = re.sub(r"\]\(\.\./benchmarks/(README\.md)?\)", "](benchmarks.md)", markdown)
    if page.file.src_uri == "benchmarks.md":
        markdown = re.sub(r"\]\(\.\./docs/", "](", markdown)
    if page.file.src_uri.split(".")[0] in FROM_ROOT:
        markdown = re.sub(r"\]\(docs/", "](", markdown)
        markdown = re.sub(r"\]\((\w+\.md)", lambda match: "](" + _renamed(match[1]), markdown)
    return markdown


def on_page_content(html, page, config, files):
    """Links pictures to themselves, since a phone shows them small, and names in code to their pages."""
    html = re.sub(r'<p>(<img [^>]*src="([^"]+)"[^>]*>)</p>', r'<p><a href="\2">\1</a></p>', html)
    root = "../" * page.url.count("/")
    home = page.url.split("/")[-1].removesuffix(".html")

    def link(match):
        aim = None if match[1] else _aim(match[2], home)
        return match[0] if aim is None or aim == page.url else f'<a href="{root}{aim}">{match[0]}</a>'

    if home == "coming_from":
        # The cells on the left name what other libraries have.
        html = re.sub(
            r"(<tr>\s*<td\b.*?</td>)(.*?</tr>)", lambda row: row[1] + CODE.sub(link, row[2]), html, flags=re.S
        )
    else:
        html = CODE.sub(link, html)
    html = re.sub(r"<td\b.*?</td>", lambda match: CODE_IN_CELL.sub(_breakable, match[0]), html, flags=re.S)
    if page.url in ("claims.html", "lecture.html"):
        html = _claims(html, page.url)
    return html


def _aim(code, home):
    """Returns the page that explains what stands in `code`, from the site's root, or `None`."""
    qualified, bare = QUALIFIED.fullmatch(code), BARE.fullmatch(code)
    if qualified and qualified[2] in offered(qualified[1]):
        return f"reference/{qualified[1]}.html#kregkit.{qualified[1]}.{qualified[2]}"
    # `Adam` alone is Keras's as often as not.
    if bare and bare[1] != "Adam":
        rooms = [room for room in ROOMS if bare[1] in offered(room)]
        # Callbacks and schedules share names: the page's own room is meant.
        rooms = [home] if home in rooms else rooms
        return f"reference/{rooms[0]}.html#kregkit.{rooms[0]}.{bare[1]}" if len(rooms) == 1 else None
    script = re.fullmatch(r"(?:python )?(examples|benchmarks)/([a-z]\w*)\.(?:py|md)(?: .*)?", code)
    if script and script[1] == "benchmarks":
        return "benchmarks.html"
    return f"examples/{script[2]}.html" if script and (ROOT / "examples" / f"{script[2]}.py").exists() else None


def _breakable(match):
    """Returns code in a table's cell with places where a long line may end: behind marks, and inside long names."""

    def parts(run):
        if len(run[0]) <= 16:
            return run[0]
        marked = re.sub(r"([(=,/]|\.(?=[^\W\d]))(?=[^)])", r"\1<wbr>", run[0])
        return re.sub(r"\w{15,}", lambda name: re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=_)", "<wbr>", name[0]), marked)

    return f"<code>{re.sub(r'[^ ]+', parts, match[1])}</code>"


@functools.cache
def _claim_names():
    return frozenset(re.findall(r"\(`(\w+)`\) \|", (ROOT / "docs" / "claims.md").read_text(encoding="utf-8")))


def _claims(html, url):
    """Gives every row of the claims an anchor, and links the lecture's items to them."""
    if url == "claims.html":
        return re.sub(r"\(<code>([\w<>]+)</code>\)", lambda row: _anchored(row[0], row[1]), html)

    def link(name):
        return f'<a href="claims.html#{name[0]}">{name[0]}</a>' if name[0] in _claim_names() else name[0]

    return re.sub(r"<em>[\w, ]+</em>", lambda match: re.sub(r"\w+(?!>)", link, match[0]), html)


def _anchored(row, code):
    name = code.replace("<wbr>", "")
    return f'<span id="{name}">{row}</span>' if name in _claim_names() else row


def _renamed(name):
    return next((f"{page}.md" for page, file in FROM_ROOT.items() if file == name), name)
