"""The errors a person can cause, apart from the errors that are ours.

A `UserError` carries one clear line: what is wrong, where, and what to do. The command line prints that line and exits
with code 2; from Python it is an ordinary exception. Anything else that escapes is a defect and keeps its traceback.
"""

import difflib
from collections.abc import Iterable

# How the `ganbench` command ends, beside 0.
EXIT_USER_ERROR, EXIT_DIVERGED, EXIT_INTERRUPTED = 2, 3, 130


class UserError(Exception):
    """Something the caller can put right. The message is one line: what is wrong, where, what to do."""


class Diverged(Exception):
    """A training run whose losses or gradients stopped being finite. Becomes a row with status=diverged."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the closest known word, or "" if none is close."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" Did you mean '{close[0]}'?" if close else ""
