"""Checks the built site: links and anchors lead somewhere, nothing comes from elsewhere, no symbol lacks a page."""

import ast
import html.parser
import pathlib
import sys
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parents[1]
SITE = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "site").resolve()
LOADED = {"img": "src", "script": "src", "link": "href", "iframe": "src", "source": "src"}


class Page(html.parser.HTMLParser):
    """The anchors of a page, where its links lead, and what it loads."""

    def __init__(self, path):
        super().__init__()
        self.anchors, self.links, self.loaded, self.unnamed = set(), [], [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.anchors |= {attributes.get("id"), attributes.get("name")} - {None}
        if tag == "a" and attributes.get("href"):
            self.links.append(attributes["href"])
        if attributes.get(LOADED.get(tag)) and attributes.get("rel") not in ("canonical", "next", "prev"):
            self.loaded.append(attributes[LOADED[tag]])
        if tag == "img" and not attributes.get("alt"):
            self.unnamed.append(attributes.get("src"))


def faults(pages):
    """Yields a sentence for each fault of the site."""
    for path, page in pages.items():
        place = path.relative_to(SITE)
        for target in page.unnamed:
            yield f"{place}: the picture {target} has no alternative text"
        for target in page.loaded:
            if urllib.parse.urlparse(target).scheme not in ("", "data") or target.startswith("//"):
                yield f"{place}: loads {target} from another server"
        for target in {*page.links, *page.loaded}:
            parts = urllib.parse.urlparse(target)
            if parts.scheme or parts.netloc or path.name == "404.html":
                continue
            aim = (path.parent / urllib.parse.unquote(parts.path)).resolve() if parts.path else path
            aim = aim / "index.html" if aim.is_dir() else aim
            if not aim.is_file():
                yield f"{place}: {target} leads nowhere"
            elif parts.fragment and aim in pages and urllib.parse.unquote(parts.fragment) not in pages[aim].anchors:
                yield f"{place}: {target} names an anchor that isn't there"
        # Search in pages that are opened from the disk: the index as a script, and what stands in for a worker.
        if path.name != "404.html" and not any("iframe-worker" in target for target in page.loaded):
            yield f"{place}: lacks the script that search needs where the page is opened from the disk"
    if not (SITE / "search" / "search_index.js").is_file():
        yield "search/search_index.js, the index for pages opened from the disk, is missing"
    anchors = set().union(*(page.anchors for page in pages.values()))
    for init in sorted((ROOT / "kregkit").glob("[a-z]*/__init__.py")):
        for node in ast.parse(init.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and node.targets[0].id == "__all__":
                for name in ast.literal_eval(node.value):
                    if f"kregkit.{init.parent.name}.{name}" not in anchors:
                        yield f"kregkit.{init.parent.name}.{name} has no place in the reference"


pages = {path: Page(path) for path in SITE.rglob("*.html")}
found = list(faults(pages))
print(
    "\n".join(found)
    or f"{len(pages)} pages, {sum(len(page.links) for page in pages.values())} links: all lead somewhere"
)
sys.exit(bool(found))
