"""Checks the links of a built site: every one within it leads somewhere, and nothing is loaded from another host.

Links between pages of crates are rustdoc's, which warns of those that lead nowhere; here only what they load is checked.

python3 .ci/docs/links.py DIRECTORY
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# A reader asks for these by himself. Everything else, such as scripts, styles and pictures, has to be here.
ASKED_FOR = {("a", "href")}
LOADED = {("img", "src"), ("script", "src"), ("link", "href"), ("iframe", "src"), ("source", "src")}
# Links that name another page of the site, but load nothing.
NAMES = {"canonical", "prev", "next", "edit"}


class Page(HTMLParser):
    """Collects the places of a page, and where its links lead."""

    def __init__(self) -> None:
        super().__init__()
        self.places: set[str] = set()
        self.links: list[tuple[str, bool]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.places |= {found[name] for name in ("id", "name") if name in found}
        for name, value in found.items():
            if (tag, name) in ASKED_FOR | LOADED and found.get("rel") not in NAMES:
                self.links.append((value, (tag, name) in LOADED))


def main() -> None:
    site = Path(sys.argv[1]).resolve()
    pages: dict[Path, Page] = {}
    for path in sorted(site.rglob("*.html")):
        pages[path] = Page()
        pages[path].feed(path.read_text(errors="replace"))
    wrong = []
    for path, page in pages.items():
        for link, loaded in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                if loaded and parts.scheme != "data":
                    wrong.append(f"{path.relative_to(site)} loads {link}")
                continue
            if path.is_relative_to(site / "rust"):
                continue
            # The page for what is missing names places from the top, because it is shown anywhere.
            base = site if parts.path.startswith("/") else path.parent
            target = (base / unquote(parts.path).lstrip("/")).resolve() if parts.path else path
            if target.is_dir():
                target /= "index.html"
            if not target.exists():
                wrong.append(f"{path.relative_to(site)} leads to {link}, which is not there")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].places:
                wrong.append(f"{path.relative_to(site)} leads to {link}, whose place is not there")
    print(*wrong[:50], sep="\n", end="\n" if wrong else "")
    sys.exit(f"{len(wrong)} links are wrong" if wrong else 0)


if __name__ == "__main__":
    main()
