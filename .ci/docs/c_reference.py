"""Makes the page of the C API from include/hrl.h: every declaration with its comment, grouped by what it is about."""

import re
from collections import defaultdict
from dataclasses import dataclass

from generated import ROOT

HEADER = ROOT / "include/hrl.h"
ITEM = re.compile(r"^/\*\*\n(?P<comment>(?: \*.*\n)+?) \*/\n(?P<code>(?:(?!/\*\*$).*\n)+?)(?=\n|/\*\*\n|\Z)", re.MULTILINE)
NAME = re.compile(r"#define (\w+)|\(\*(\w+)\)|\b(hrl_\w+)\(|typedef struct \w+ (\w+);|typedef .*?(\w+);")
# Groups in the order of the header, and what their functions begin with; the longest beginning counts.
TITLES = {
    "": "General",
    "error": "Errors",
    "vault": "Vaults",
    "store": "Stores",
    "key": "Keys",
    "protection": "Protections",
    "replica": "Replicas",
    "failover": "Failovers",
    "follower": "Followers",
    "device": "Devices",
    "tap": "Taps",
    "plan": "Recovery plans",
    "mirror": "Mirrors",
    "group": "Consistency groups",
    "nbd_server": "NBD servers",
    "segment": "Segments",
    "convert": "Conversion",
    "buffer": "Buffers",
    "quiesce": "Quiescing",
}


@dataclass
class Item:
    name: str
    comment: str
    code: str

    def group(self) -> str:
        words = self.name.lower().removeprefix("hrl_").removesuffix("_callbacks")
        fitting = [begin for begin in TITLES if begin and (words == begin or words.startswith(f"{begin}_"))]
        return max(fitting, key=len, default="")


def items(header: str) -> list[Item]:
    found = []
    for match in ITEM.finditer(header):
        code = match["code"].strip("\n")
        plain = re.sub(r"/\*.*?\*/", "", code, flags=re.DOTALL)
        name = re.search(r"^\} (\w+);", plain, re.MULTILINE) or NAME.search(plain)
        if not code or name is None:
            continue
        comment = "\n".join(line[3:] for line in match["comment"].splitlines())
        found.append(Item(next(part for part in name.groups() if part), comment, code))
    return found


def page() -> str:
    """The whole page, in Markdown."""
    header = HEADER.read_text()
    known = items(header)
    names = {item.name for item in known}
    opening = re.match(r"/\*\*\n((?: \*.*\n)+?) \*/\n", header)
    text = ["# C reference", "", "`include/hrl.h`, every declaration with its comment.", ""]
    if opening:
        text += ["\n".join(line[3:] for line in opening[1].splitlines()), ""]
    groups: defaultdict[str, list[Item]] = defaultdict(list)
    for item in known:
        groups[item.group()].append(item)
    for group, title in TITLES.items():
        if groups[group]:
            text += [f"## {title}", ""]
        for item in groups[group]:
            comment = re.sub(r"`(hrl_\w+)`", lambda m: f"[`{m[1]}`](#{m[1]})" if m[1] in names else m[0], item.comment)
            text += [f"### `{item.name}` {{ #{item.name} }}", "", "```c", item.code, "```", "", comment, ""]
    return "\n".join(text)


if __name__ == "__main__":
    print(page())
