"""The errors a person can cause, apart from the errors that are ours.

A `UserError` carries one clear line: what is wrong, where, and what to do. The command line prints that line and exits
with code 2; from Python it is an ordinary exception. Anything else that escapes is a defect and keeps its traceback.
"""

import difflib
from collections.abc import Iterable

# How the `ganbench` command ends, beside 0.
EXIT_DEFECT, EXIT_USER_ERROR, EXIT_DIVERGED, EXIT_INCOMPLETE = 1, 2, 3, 3  # and 128 + its number for a signal


class UserError(Exception):
    """Something the caller can put right. The message is one line: what is wrong, where, what to do."""


class Diverged(Exception):
    """A training run whose losses or gradients stopped being finite. Becomes a row with status=diverged."""


class Stopped(Exception):
    """A training that a signal asked to end, and that has written its checkpoint. The message says where it got to."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, of a GPU or of the machine. torch has no type of its own for the latter."""
    text = str(error)
    return (isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
            or "can't allocate memory" in text or "not enough memory" in text or "Cannot allocate memory" in text)


def nearest(word: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the closest known word, in whichever case, or "" if none is close."""
    lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), list(lower), n=1, cutoff=0.5)
    return f" Did you mean '{lower[close[0]]}'?" if close else ""


def unknown(wrong: str, word: str, known: Iterable[str]) -> UserError:
    """The error for a word that is not among the known ones: what is `wrong`, the nearest one, and all of them."""
    known = list(known)
    return UserError(f"{wrong} '{word}'.{nearest(word, known)} Known: {', '.join(known) or 'none'}")


def shown(name: object) -> str:
    """A name from outside as text that fits one line of a terminal, whatever bytes are in it.

    Examples:
        >>> print(shown("cat\\x1b[2J"))
        cat\\x1b[2J
    """
    text = str(name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
