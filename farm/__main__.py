"""Start the command line: `farm`, or `python -m farm`."""

from __future__ import annotations


def main() -> None:
    """Run the command that the arguments name, and exit with its code."""
    from farm.cli.app import app

    app(prog_name="farm")


if __name__ == "__main__":
    main()
