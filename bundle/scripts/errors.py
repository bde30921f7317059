"""The error that a user can correct, and lists of names in its message. Standard library only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


class UserError(ValueError):
    """An error in a job's input; the message gives what was found, what was expected, and the remedy.

    The command line prints the message without a traceback.
    """


def reason(error: BaseException) -> str:
    """Why something failed, for a table: the message of an error of this project, and of any other its kind and message."""
    own = type(error).__module__.partition(".")[0] in ("scripts", "radiogenomics", "custom_transforms")
    return str(error) if own else f"{type(error).__name__}: {error}"


def grouped(texts: Mapping[str, str]) -> list[str]:
    """``["FLAIR, T2w: no slice", "T1w: half a file"]`` of a text by name: each text once, after all names that it belongs to."""
    names: dict[str, list[str]] = {}
    for name, text in texts.items():
        names.setdefault(text, []).append(name)
    return [f"{', '.join(those)}: {text}" for text, those in names.items()]


def some(names: Iterable[str], most: int = 20) -> str:
    """Names in a message: the first ones, and how many more there are."""
    listed = list(names)
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")
