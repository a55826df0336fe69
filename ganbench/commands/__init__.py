"""What each command does. A room of `ganbench.cli`: parse, call, print."""

import sys


def note(text: str) -> None:
    """One line to the user, on stderr."""
    print(f"ganbench: {text}", file=sys.stderr)
