"""docs/lecture.md: every item in order, with symbols that exist, and pictures and claims that are made somewhere."""

import importlib
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent
TEXT = (ROOT / "docs/lecture.md").read_text(encoding="utf-8")
# From the number in bold to the next item or heading.
ITEMS = {
    int(number): body
    for number, body in re.findall(r"^\*\*(\d+)\*\* (.*?)(?=^\*\*\d+\*\* |^## |\Z)", TEXT, re.S | re.M)
}


def exists(symbol):
    """Returns whether a dotted name leads from a module to an attribute."""
    parts = symbol.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:end]))
        except ImportError:
            continue
        for part in parts[end:]:
            # Fields of data classes without a default are no attributes of the class.
            if not hasattr(found, part) and part not in getattr(found, "__annotations__", {}):
                return False
            found = getattr(found, part, None)
        return True
    return False


def test_all_items_are_there_in_order():
    numbers = [int(number) for number in re.findall(r"^\*\*(\d+)\*\* ", TEXT, re.M)]
    assert numbers == list(range(1, 155))


@pytest.mark.parametrize("number", range(1, 155))
def test_an_item_names_a_symbol_that_exists_and_short_code(number):
    _prose, *blocks = re.split(r"```python\n(.*?)```", ITEMS[number], flags=re.S)
    symbols = re.findall(r"`((?:kregkit|keras)\.[\w.]+)`", ITEMS[number])
    own = re.findall(r"`efficientnet_lite0`|`examples/[\w]+\.py`", ITEMS[number])
    assert symbols or own, "no symbol"
    for symbol in symbols:
        assert exists(symbol), symbol
    for block in blocks[::2]:
        assert 1 <= len([line for line in block.splitlines() if line.strip()]) <= 5, block


def test_pictures_are_drawn_by_the_scripts_that_are_named():
    scripts = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "examples").glob("[a-z_]*.py")}
    for script in set(re.findall(r"`examples/(\w+\.py)`", TEXT)):
        assert script in scripts, script
    for picture in set(re.findall(r"`(\w+\.(?:png|gif))`", TEXT)):
        stem = picture.split(".")[0]
        assert any(f'"{picture}"' in code or f'"{stem}"' in code for code in scripts.values()), picture


def test_claims_are_in_the_table():
    known = set(re.findall(r"\(`(\w+)`\) \|", (ROOT / "docs/claims.md").read_text(encoding="utf-8")))
    known |= set(
        re.findall(
            r"`(\w+)`",
            re.findall(r"Not measured.*", (ROOT / "docs/claims.md").read_text("utf-8") + "\nNot measured")[0],
        )
    )
    named = set(re.findall(r"(?<![*\w])\*(\w+)\*(?![*\w])", TEXT)) - {"italics"}
    assert named == known, (named - known, known - named)
