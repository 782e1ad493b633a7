"""The command `carryover`, also as `python -m carryover_server`."""

from __future__ import annotations

from carryover_server import activate


def main() -> None:
    """Run the command line."""
    activate()
    from app.cli import main as run

    run()


if __name__ == "__main__":
    main()
