"""The watchdog as a program: the package starts it for each application-consistent point, and nobody else does."""

import sys
from pathlib import Path


def main() -> int:
    from hrl._hrl import run_watchdog

    return run_watchdog()


if __name__ == "__main__":
    # Run as a file, because the package may be one that only the parent's sys.path leads to.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    sys.exit(main())
