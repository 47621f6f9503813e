"""Hooks of mkdocs: pages that are made of other sources while the guide is built."""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import c_reference

# `make docs` puts the documentation of the crates beside it.
RUST = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Rust reference</title>
<meta http-equiv="refresh" content="0; url=hrl/index.html"></head>
<body><a href="hrl/index.html">Rust reference</a></body></html>
"""


def on_files(files: Any, config: Any) -> Any:
    """Adds the C reference, and the page that leads to the documentation of the crates."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, "reference-c.md", content=c_reference.page()))
    files.append(File.generated(config, "rust/index.html", content=RUST))
    return files
