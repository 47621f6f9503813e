"""Parts of a page that a script writes: the text between two comments."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def put(page: Path, name: str, text: str) -> None:
    """Writes `text` between the comments `name` of the page. With --check it only compares, and ends with 1."""
    old = page.read_text()
    begin, end = f"<!-- {name}: generated -->\n", f"<!-- end of {name} -->\n"
    before, found, rest = old.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise SystemExit(f"{page.relative_to(ROOT)}: expected the comments of {name!r}")
    new = f"{before}{begin}{text}{end}{after}"
    if new == old:
        return
    if "--check" in sys.argv:
        command = f"python3 {Path(sys.argv[0]).resolve().relative_to(ROOT)}"
        raise SystemExit(f"{page.relative_to(ROOT)} is not up to date: run {command}")
    page.write_text(new)
