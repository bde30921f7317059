"""The error that a user can correct, and lists of names in its message. Standard library only."""

from __future__ import annotations

from collections.abc import Iterable


class UserError(ValueError):
    """An error in a job's input; the message gives what was found, what was expected, and the remedy.

    The command line prints the message without a traceback.
    """


def some(names: Iterable[str], most: int = 20) -> str:
    """Names in a message: the first ones, and how many more there are."""
    listed = list(names)
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")
