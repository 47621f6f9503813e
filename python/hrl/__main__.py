"""`python -m hrl` is the command `hrl`."""

from hrl.cli import main

main()
