"""What DICOM headers say: the attributes of a file or series, and how two of them differ, without the patient's identity."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pydicom

from custom_transforms import SeriesError
from custom_transforms.dicom_file import read_dicom
from custom_transforms.volume import entries_of

from ..errors import UserError
from ..files import escaped
from .profile import may_identify

HIDDEN = "(hidden; --phi shows it)"
LONGEST = 100
"""Letters of a value that are shown; all of them are compared."""
_BULK = 64  # bytes from which a binary value is summarised
_COLOURS = {"-": "\x1b[31m", "+": "\x1b[32m", "!": "\x1b[33m", "@": "\x1b[1m"}


class HeaderError(UserError):
    """A file or folder whose DICOM headers can't be shown."""


class Attribute(NamedTuple):
    """An attribute of a file: its name for people, VR, its whole value as text, and whether it is shown."""

    name: str
    vr: str
    value: str
    hidden: bool

    @property
    def shown(self) -> str:
        """The value, shortened, or that it is hidden."""
        if self.hidden:
            return HIDDEN
        return self.value if len(self.value) <= LONGEST else f"{self.value[: LONGEST - 1]}…"


class Row(NamedTuple):
    """A line of a comparison.

    Attributes:
        path: tags, and numbers of the items of sequences: ``(0008,1140)[1](0008,1150)``.
        name: keywords, nested as the path is.
        vr: of the attribute.
        status: same, differs, only in A, only in B, varies.
        values: what A and B say; of one file or series, one.
    """

    path: str
    name: str
    vr: str
    status: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """Rows in the order of tags, what A and B are called, and whether they are series."""

    names: tuple[str, ...]
    rows: list[Row]
    series: bool

    def shown(self, everything: bool) -> list[Row]:
        """The rows that are shown: not those that are the same, unless asked for or a file is alone."""
        alone = len(self.names) == 1 and not self.series
        return [row for row in self.rows if everything or alone or row.status != "same"]

    def summary(self) -> str:
        """How many attributes differ."""
        counts = {status: sum(row.status == status for row in self.rows) for status in _STATUS}
        if len(self.names) == 1 and not self.series:
            return f"{len(self.rows)} attributes"
        parts = [f"{count} {_STATUS[status]}" for status, count in counts.items() if count or status == "same"]
        return f"{', '.join(parts)} (--everything True shows these too)"


_STATUS = {
    "differs": "differ",
    "only in A": "only in A",
    "only in B": "only in B",
    "varies": "vary along the slices",
    "same": "are the same",
}


def compare(paths: Sequence[str | Path], phi: bool = False, private: bool = False) -> Comparison:
    """Read and compare.

    Args:
        paths: one or two DICOM files, or folders of a series each; a file beside a folder counts as a series of one.
        phi: show what may identify the patient; it is compared in any case.
        private: include private attributes.

    Raises:
        HeaderError: when a path is missing, is not DICOM, or holds several series.
    """
    series = any(Path(path).is_dir() for path in paths)
    found = [list(_read(Path(path), phi, private, pixels=not series)) for path in paths]
    names = tuple(
        f"{path} ({len(files)} files)" if series else str(path) for path, files in zip(paths, found, strict=True)
    )
    if series:
        return Comparison(names, _rows_of_series(found), True)
    return Comparison(names, _rows_of_files([files[0] for files in found]), False)


# ---------------------------------------------------------------------------------------------------------------------
# reading


def _read(path: Path, phi: bool, private: bool, pixels: bool) -> Iterator[dict[str, Attribute]]:
    if not path.exists():
        raise HeaderError(f"{path}: no such file or folder; expected a DICOM file, or a folder of a series")
    files = [entry for entry in entries_of(path) if entry.is_file()] if path.is_dir() else [path]
    datasets = []
    for file in files:
        try:
            dataset = read_dicom(file, pixels=pixels)
        except (SeriesError, OSError) as error:
            raise HeaderError(str(error)) from error
        if dataset is not None:
            datasets.append(dataset)
    if not datasets:
        what = f"found {len(files)} files, none of which is DICOM" if path.is_dir() else "is not a DICOM image"
        raise HeaderError(f"{path}: {what}; expected a DICOM file, or a folder of the files of one series")
    count = len({str(dataset.get("SeriesInstanceUID", "")) for dataset in datasets})
    if count > 1:
        raise HeaderError(
            f"{path}: found {count} series in {len(datasets)} files, expected one; name single files, or move each series into a folder of "
            "its own (`radiogenomics studies` lists them)"
        )
    for dataset in datasets:
        yield dict(_flat([*getattr(dataset, "file_meta", ()), *_elements(dataset)], "", "", False, phi, private))


def _elements(dataset: pydicom.Dataset) -> Iterator[pydicom.DataElement | str]:
    """The elements of a dataset; of one that can't be decoded its tag and the reason."""
    for tag in sorted(dataset.keys()):
        try:
            yield dataset[tag]
        except Exception as error:
            yield f"{_tag(tag)} unreadable: {error}"


def _flat(
    elements: Iterable[Any], path: str, name: str, hidden: bool, phi: bool, private: bool
) -> Iterator[tuple[str, Attribute]]:
    """Attributes by path, those in sequences after their sequence."""
    for element in elements:
        if isinstance(element, str):
            where, _, reason = element.partition(" ")
            yield path + where, Attribute(f"{name}?", "", reason, not phi)
            continue
        if element.tag.is_private and not private:
            continue
        place, called = path + _tag(element.tag), name + (element.keyword or _private_name(element, phi))
        secret = hidden or (not phi and may_identify(element))
        if element.VR != "SQ":
            yield place, Attribute(called, element.VR, _value(element), secret)
            continue
        yield place, Attribute(called, "SQ", f"{len(element.value)} items", secret)
        for number, item in enumerate(element.value, 1):
            yield from _flat(_elements(item), f"{place}[{number}]", f"{called}[{number}].", secret, phi, private)


def _tag(tag: Any) -> str:
    tag = pydicom.tag.Tag(tag)
    return f"({tag.group:04X},{tag.element:04X})"


def _private_name(element: pydicom.DataElement, phi: bool) -> str:
    if not element.tag.is_private:
        return "Unknown"
    return f"Private {element.name}" if phi and element.name != "Private tag data" else "Private"


def _value(element: pydicom.DataElement) -> str:
    """The value of an element as text on one line; of pixels and other binary values their size and checksum."""
    return escaped(_text(element))


def _text(element: pydicom.DataElement) -> str:
    value = element.value
    if isinstance(value, (bytes, bytearray)):
        if len(value) <= _BULK and element.keyword != "PixelData":
            return value.hex(" ")
        return f"{len(value)} bytes, SHA-256 {hashlib.sha256(value).hexdigest()[:16]}"
    if value is None:
        return ""
    if element.VM > 1:
        text = "\\".join(map(str, value))
        if element.VM > 32:
            return f"{element.VM} values, SHA-256 {hashlib.sha256(text.encode()).hexdigest()[:16]}: {text}"
        return text
    if element.VR == "UI" and (known := pydicom.uid.UID(str(value)).name) != str(value):
        return f"{value} ({known})"
    return " ".join(str(value).split())


# ---------------------------------------------------------------------------------------------------------------------
# comparing


def _in_order(places: Iterable[str]) -> list[str]:
    """Paths by tag; items by number, each sequence before its items."""

    def key(path: str) -> list[tuple[str, int]]:
        parts = path.replace("[", " ").replace("]", " ").split()
        return [(part, 0) if part.startswith("(") else ("", int(part)) for part in parts]

    return sorted(places, key=key)


def _rows_of_files(files: Sequence[Mapping[str, Attribute]]) -> list[Row]:
    rows = []
    for path in _in_order({path for file in files for path in file}):
        there = [file.get(path) for file in files]
        known = next(one for one in there if one is not None)
        if None in there:
            status = "only in B" if there[0] is None else "only in A"
        else:
            status = "same" if len({one.value for one in there if one is not None}) == 1 else "differs"
        values = tuple("" if one is None else one.shown for one in there)
        rows.append(Row(path, known.name, known.vr, status, values))
    return rows


def _rows_of_series(series: Sequence[Sequence[Mapping[str, Attribute]]]) -> list[Row]:
    """A row for each attribute; one that takes several values in both series varies, whatever these are."""
    rows = []
    for path in _in_order({path for files in series for file in files for path in file}):
        there = [[file[path] for file in files if path in file] for files in series]
        known = next(one for found in there for one in found)
        counts = [len({one.value for one in found}) for found in there]
        complete = [len(found) in (0, len(files)) for found, files in zip(there, series, strict=True)]
        if len(series) > 1 and not all(there):
            status = "only in B" if not there[0] else "only in A"
        elif all(count == 1 for count in counts) and all(complete):
            status = "same" if len({found[0].value for found in there}) == 1 else "differs"
        else:
            varies = all(count > 1 for count in counts) or len(series) == 1
            status = "varies" if varies else "differs"
        values = tuple(_summary(found, len(files)) for found, files in zip(there, series, strict=True))
        rows.append(Row(path, known.name, known.vr, status, values))
    return rows


def _summary(found: Sequence[Attribute], files: int) -> str:
    """A summary of an attribute along a series."""
    if not found:
        return ""
    some_files = "" if len(found) == files else f" (in {len(found)} of {files} files)"
    values = list(dict.fromkeys(one.value for one in found))
    if len(values) == 1:
        return found[0].shown + some_files
    if any(one.hidden for one in found):
        return f"{len(values)} values {HIDDEN}{some_files}"
    try:
        numbers = sorted(float(value) for value in values)
    except ValueError:
        return f"{len(values)} values, {values[0][:36]} and others{some_files}"
    return f"{len(values)} values, {numbers[0]:g} to {numbers[-1]:g}{some_files}"


# ---------------------------------------------------------------------------------------------------------------------
# showing


def as_text(comparison: Comparison, everything: bool = False, colour: bool = False) -> str:
    """Lines of a unified diff (``-`` A, ``+`` B, ``!`` hidden ones that differ, a blank for the same) or a table of series."""
    rows = comparison.shown(everything)
    lines = []
    if len(comparison.names) == 2:
        lines += [f"--- A {escaped(comparison.names[0])}", f"+++ B {escaped(comparison.names[1])}"]
    else:
        lines.append(f"    {escaped(comparison.names[0])}")
    lines += _table(comparison, rows) if comparison.series else _diff(rows)
    lines.append(f"@@ {comparison.summary()}")
    if colour:
        lines = [f"{_COLOURS[line[0]]}{line}\x1b[0m" if line[:1] in _COLOURS else line for line in lines]
    return "\n".join(lines)


def _diff(rows: Sequence[Row]) -> list[str]:
    lines = []
    width = max([len(row.path) + len(row.name) + 1 for row in rows], default=0)
    for row in rows:
        start = f"{f'{row.path} {row.name}':<{min(width, 64)}} {row.vr:<2} "
        if row.status == "same":
            lines.append(f"  {start}{row.values[0]}")
        elif HIDDEN in row.values and row.status == "differs":
            lines.append(f"! {start}differs {HIDDEN}")
        else:
            lines += [f"{sign} {start}{value}" for sign, value in _sides(row)]
    return lines


def _sides(row: Row) -> list[tuple[str, str]]:
    return [
        (sign, value)
        for sign, value, other in zip("-+", row.values, ("only in B", "only in A"), strict=False)
        if row.status != other
    ]


def _table(comparison: Comparison, rows: Sequence[Row]) -> list[str]:
    heads = ["attribute", "", *("AB" if len(comparison.names) == 2 else ["value"])]
    cells = [[f"{row.path} {row.name}", row.status, *row.values] for row in rows]
    widths = [
        min(max(map(len, column)), most)
        for column, most in zip(zip(heads, *cells, strict=True), (60, 10, 56, 56), strict=False)
    ]
    signs = {"differs": "!", "only in A": "-", "only in B": "+"}
    lines = ["  " + "  ".join(text.ljust(width) for text, width in zip(heads, widths, strict=True)).rstrip()]
    for row, line in zip(rows, cells, strict=True):
        shown = "  ".join(_cut(text, width).ljust(width) for text, width in zip(line, widths, strict=True))
        lines.append(f"{signs.get(row.status, ' ')} {shown.rstrip()}")
    return lines


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def write_html(comparison: Comparison, file: str | Path, everything: bool = False) -> None:
    """Write the comparison as a self-contained page.

    Raises:
        ImportError: when Jinja2 is not installed.
    """
    from ..report.pages import jinja_environment, write_page

    letters = list("AB") if len(comparison.names) == 2 else ["value"]
    rows = []
    for row in comparison.shown(everything):
        # a path of nested items is shown by its last tag and its names
        status = "" if row.status == "same" else row.status
        cells = [row.path[row.path.rfind("(") :], row.name, row.vr, status, *row.values]
        rows.append((row.status.replace(" ", "-"), cells))
    names = [
        f"{letter}: {name}" if len(comparison.names) == 2 else name
        for letter, name in zip(letters, comparison.names, strict=True)
    ]
    content = (
        jinja_environment()
        .get_template("headers.html")
        .render(
            title="DICOM headers",
            subtitle="",
            phantom="",
            names=names,
            summary=comparison.summary(),
            columns=["tag", "attribute", "VR", "", *letters],
            rows=rows,
        )
    )
    write_page(Path(file), content)
