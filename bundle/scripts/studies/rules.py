"""Which series of a study is which modality, by rules that a site can edit, and why the others are not chosen."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..files import one_line, parse_yaml
from ..modalities import MRI_TYPES
from .series import DicomSeries, DicomStudy, StudiesError, by_number

_NO_AGENT = {"", "no", "none", "n", "0", "-", "nein", "without"}
PREFERENCES = {
    "description": "its description comes earlier in the rules",
    "original": "it is an original image",
    "slices": "more slices",
    "thin": "thinner slices",
    "newest": "newer",
    "oldest": "older",
}
"""Criteria for preferring one of several series of a modality, and their wording."""


@dataclass(frozen=True)
class Rules:
    """Which series is which modality.

    Attributes:
        modalities: expressions by modality; the first modality with a match counts.
        exclude: expressions for excluded descriptions, checked first.
        image_types: values of ImageType that exclude a series.
        contrast_unless: description of a T1w series that is not T1wCE, whatever its header says; None ignores headers.
        min_slices: least number of slices of a series.
        prefer: keys of :data:`PREFERENCES`, in order.
        source: file of the rules.
    """

    modalities: dict[str, tuple[re.Pattern[str], ...]]
    exclude: tuple[re.Pattern[str], ...] = ()
    image_types: frozenset[str] = frozenset()
    contrast_unless: re.Pattern[str] | None = None
    min_slices: int = 1
    prefer: tuple[str, ...] = ("slices", "newest")
    source: str = ""


_RULE_KEYS = (
    "words", "exclude", "exclude_image_types", "modalities", "contrast_by_header_unless", "min_slices", "prefer",
)  # fmt: skip


def read_rules(file: str | Path) -> Rules:
    """Rules from a YAML file; ``configs/modality_rules.yaml`` documents its format.

    Raises:
        StudiesError: when the file is missing, or has an unknown entry or an invalid regular expression.
    """
    content = _content(file)
    words = content.get("words") or {}
    if not isinstance(words, dict):
        raise StudiesError(f"{file}: words is {one_line(repr(words))}; expected an expression for each name")

    def listed(key: str) -> list[Any]:
        return _listed(content.get(key), f"{file}: {key}")

    def expressions(texts: Any, where: str) -> tuple[re.Pattern[str], ...]:
        place = f"{file}: {where}"
        return tuple(_expression(text, words, place) for text in _listed(texts, place))

    prefer = listed("prefer") if "prefer" in content else ["slices", "newest"]
    if unknown := [name for name in prefer if name not in list(PREFERENCES)]:
        raise StudiesError(
            f"{file}: prefer: {one_line(repr(unknown[0]))} is unknown; expected some of {', '.join(PREFERENCES)}"
        )
    min_slices = content.get("min_slices", 1)
    if not isinstance(min_slices, int) or isinstance(min_slices, bool) or min_slices < 1:
        raise StudiesError(f"{file}: min_slices is {one_line(repr(min_slices))}, expected a whole number from 1")
    key = "contrast_by_header_unless"
    unless = content.get(key)
    return Rules(
        modalities={name: expressions(texts, f"modalities: {name}") for name, texts in content["modalities"].items()},
        exclude=expressions(content.get("exclude"), "exclude"),
        image_types=frozenset(str(value).upper() for value in listed("exclude_image_types")),
        contrast_unless=None if unless is None else _expression(unless, words, f"{file}: {key}"),
        min_slices=min_slices,
        prefer=tuple(prefer),
        source=str(file),
    )


def _content(file: str | Path) -> dict[str, Any]:
    """The content of a file of rules, with only known keys and modalities."""
    if not Path(file).is_file():
        raise StudiesError(f"{file}: no such file of rules")
    try:
        content = parse_yaml(Path(file).read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise StudiesError(
            f"{file}: not YAML ({one_line(error)}); expected rules as in configs/modality_rules.yaml, in UTF-8"
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get("modalities"), dict):
        raise StudiesError(f"{file}: expected rules with `modalities:`, a list of expressions for each modality")
    for key in content:
        if key not in _RULE_KEYS:
            raise StudiesError(f"{file}: {one_line(repr(key))} is unknown; expected {', '.join(_RULE_KEYS)}")
    for name in content["modalities"]:
        if name not in list(MRI_TYPES):
            raise StudiesError(f"{file}: modality {one_line(repr(name))} is unknown; expected {', '.join(MRI_TYPES)}")
    return content


def _listed(value: Any, where: str) -> list[Any]:
    if value is None or isinstance(value, list):
        return value or []
    raise StudiesError(f"{where}: expected a list, found {one_line(repr(value))}")


def _expression(text: Any, words: Mapping[str, str], where: str) -> re.Pattern[str]:
    """A regular expression in which ``{name}`` stands for one of the words."""

    def word(match: re.Match[str]) -> str:
        if match[1] not in words:
            raise StudiesError(
                f"{where}: {{{match[1]}}} is not an expression of `words`: {one_line(', '.join(map(str, words)))}; add it there"
            )
        return f"(?:{words[match[1]]})"

    if not isinstance(text, (str, int, float)):
        raise StudiesError(f"{where}: expected a regular expression, found {one_line(repr(text))}")
    try:
        return re.compile(re.sub(r"\{([a-z]\w*)\}", word, str(text)), re.IGNORECASE)
    except (re.error, OverflowError, RecursionError) as error:
        raise StudiesError(
            f"{where}: {one_line(repr(text))} is not a regular expression ({error}); correct it"
        ) from error


def plain(description: str) -> str:
    """A normalised description: ``_``, ``-``, ``.``, ``,``, ``/``, ``:`` and brackets are blanks, runs of them one."""
    return re.sub(r"[\s_\-.,/:()\[\]]+", " ", description).strip()


@dataclass(frozen=True)
class Decision:
    """The decision on a series.

    Attributes:
        series: the series.
        mri_type: its modality by the rules; None if none.
        chosen: whether it is used for its modality.
        reason: why, or why not.
    """

    series: DicomSeries
    mri_type: str | None
    chosen: bool
    reason: str


def choose(study: DicomStudy, rules: Rules) -> list[Decision]:
    """Decide on each series of a study, in their order; several are chosen for a modality where the rules prefer none of them."""
    decisions: dict[str, Decision] = {}
    candidates: dict[str, list[tuple[int, DicomSeries]]] = {}
    ways: dict[str, str] = {}
    for series in study.series:
        mri_type, rank, reason = _identify(series, rules)
        if mri_type is None:
            decisions[series.uid] = Decision(series, None, False, reason)
        else:
            candidates.setdefault(mri_type, []).append((rank, series))
            ways[series.uid] = reason
    if rules.contrast_unless is not None and "T1wCE" not in candidates:
        moved = [(rank, one) for rank, one in candidates.get("T1w", []) if _with_agent(one, rules.contrast_unless)]
        for rank, one in moved:
            candidates["T1w"].remove((rank, one))
            candidates.setdefault("T1wCE", []).append((rank, one))
            ways[one.uid] = f"T1w by its description, and its header names the contrast agent {one.contrast_agent!r}"
    for mri_type, series_of_type in candidates.items():
        ordered = sorted(series_of_type, key=lambda pair: (_preference(pair, rules.prefer), by_number(pair[1])))
        best = ordered[0]
        for pair in ordered:
            alike = _preference(pair, rules.prefer) == _preference(best, rules.prefer)
            if alike:  # several of them: the user must choose
                reason = ways[pair[1].uid]
                if pair is best and len(ordered) > 1 and (differs := _difference(best, ordered[1], rules)):
                    reason += f"; preferred to {len(ordered) - 1} other series: {differs}"
            else:
                reason = f"series {_called(best[1])} was preferred: {_difference(best, pair, rules)}"
            decisions[pair[1].uid] = Decision(pair[1], mri_type, alike, reason)
    return [decisions[series.uid] for series in study.series]


def _identify(series: DicomSeries, rules: Rules) -> tuple[str | None, int, str]:
    """Modality, place of the expression that fits, and the reason."""
    if series.trouble:
        return None, 0, series.trouble
    text = plain(series.description)
    for expression in rules.exclude:
        if expression.fullmatch(text):
            return None, 0, f"its description is excluded by {expression.pattern}"
    if found := [value for value in series.image_type if value.upper() in rules.image_types]:
        return None, 0, f"its ImageType is {found[0]}, which is excluded"
    for mri_type, expressions in rules.modalities.items():
        for rank, expression in enumerate(expressions):
            if expression.fullmatch(text):
                if series.slices < rules.min_slices:
                    return None, 0, f"{mri_type}, but {series.slices} slices; {rules.min_slices} are needed"
                return mri_type, rank, f"{mri_type} by its description"
    return None, 0, "no rule fits its description" if text else "it has no description"


def _with_agent(series: DicomSeries, unless: re.Pattern[str]) -> bool:
    return series.contrast_agent.lower() not in _NO_AGENT and not unless.fullmatch(plain(series.description))


def _criterion(name: str, rank: int, series: DicomSeries) -> Any:
    """A sort key of two series, smaller for the better one."""
    if name == "description":
        return rank
    if name == "original":
        return series.image_type[:1] != ("ORIGINAL",)
    if name == "slices":
        return -series.slices
    if name == "thin":
        return float("inf") if series.spacing is None else round(series.spacing, 2)
    # digits of the time are turned round for the newest; a series without a time comes last in both
    digits = re.sub(r"\D", "", series.taken)[:14].ljust(14, "0")
    return (not series.taken, -int(digits) if name == "newest" else int(digits))


def _preference(candidate: tuple[int, DicomSeries], prefer: Sequence[str]) -> tuple[Any, ...]:
    return tuple(_criterion(name, *candidate) for name in prefer)


def _difference(best: tuple[int, DicomSeries], other: tuple[int, DicomSeries], rules: Rules) -> str:
    for name in rules.prefer:
        if _criterion(name, *best) != _criterion(name, *other):
            counts = f", {best[1].slices} and {other[1].slices}" if name == "slices" else ""
            return PREFERENCES[name] + counts
    return ""


def _called(series: DicomSeries) -> str:
    return f"{series.number} '{series.description}'" if series.number is not None else f"'{series.description}'"
