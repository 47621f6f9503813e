"""The command `hrl`."""


def main() -> None:
    """Runs the command of this process's arguments."""
    from hrl.cli.app import main as run

    run()


__all__ = ["main"]
