"""The error that a person can mend. Standard library only."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake in what a job was given, or what it found; the message says what, what was expected, and the remedy.

    The command line prints the message without a traceback.
    """
