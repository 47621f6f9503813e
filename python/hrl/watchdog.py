"""The watchdog as a program, which the package itself starts for each application-consistent point."""

import sys
from pathlib import Path


def main() -> int:
    """Runs the watchdog. Returns its exit code."""
    from hrl._hrl import run_watchdog

    return run_watchdog()


if __name__ == "__main__":
    # It is run as a file, because the package may lie where only the parent's sys.path leads.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    sys.exit(main())
