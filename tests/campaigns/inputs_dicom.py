"""DICOM series with one thing wrong."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from random import Random

import numpy as np
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.tag import Tag

from . import sound

NUMBERS = (0, 1, 2, 7, 8, 12, 15, 31, 33, 64, 255, 4096, 60000, 65535)
DECIMALS = (
    "0", "nan", "-1", "inf", "-inf", "1e300", "1e39", "-1e38", "1e-300", "1e-7", "", " ", "abc", "1,5", "1\\1", "9" * 17, "0x10", "1e", "0.0001", "1e5",
)  # fmt: skip
PAIRS = (
    "0\\0", "nan\\nan", "-1\\-1", "1\\nan", "inf\\inf", "1e300\\1e300", "1e-300\\1e-300", "", "1", "1\\1\\1", "abc\\1", "1e-6\\1e6", "5\\500", "1e39\\1",
)  # fmt: skip
POSITIONS = (
    "0\\0\\0", "nan\\0\\0", "0\\0\\inf", "1e300\\0\\0", "", "0\\0", "a\\b\\c", "0\\0\\1e18", "0\\0\\0.005", "1e39\\1e39\\1e39", "1e7\\1e7\\1e7",
)  # fmt: skip
ORIENTATIONS = (
    "0\\0\\0\\0\\0\\0", "1\\0\\0\\1\\0\\0", "nan\\0\\0\\0\\1\\0", "1\\0\\0\\0\\1", "2\\0\\0\\0\\2\\0", "", "1e300\\0\\0\\0\\1e300\\0",
    "0.7\\0.7\\0\\0\\1\\0", "-1\\0\\0\\0\\-1\\0", "0\\1\\0\\0\\0\\-1", "0.577\\0.577\\0.577\\0.707\\-0.707\\0", "a\\b\\c\\d\\e\\f",
)  # fmt: skip
TEXTS = (
    "", "../../x", "a/b", "a\\b", "=1+1", "x" * 300, "\x1b[2J", "NUL", "$x", "@x", "..", "\u00e4\u00f6", "<b>", "a\x00b", "'", "FLAIR", "localizer",
)  # fmt: skip
UIDS = (
    "",
    "abc",
    "1",
    "1.2.840.10008.5.1.4.1.1.2",
    "1.2.840.10008.5.1.4.1.1.66.4",
    "1.2.840.10008.1.3.10",
    "1." * 60,
    "../x",
    "1.02.3",
)
SYNTAXES = (
    "1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.57",
    "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.100", "1.2.3.4", "",
    "1.2.840.10008.1.2.4.110",
)  # fmt: skip
FIELDS: dict[str, tuple] = {
    **dict.fromkeys(("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel"), NUMBERS),
    **dict.fromkeys(("SliceThickness", "SpacingBetweenSlices", "SliceLocation", "RescaleSlope", "RescaleIntercept", "WindowCenter"), DECIMALS),
    **dict.fromkeys(("WindowWidth", "MagneticFieldStrength", "SeriesNumber", "InstanceNumber"), DECIMALS),
    "NumberOfFrames": ("0", "-1", "2", "3", "1000000000", "9" * 12, "abc", "1.5", "", "1\\2", "100000"),
    "PixelSpacing": PAIRS,
    "ImagePositionPatient": POSITIONS,
    "ImageOrientationPatient": ORIENTATIONS,
    "PhotometricInterpretation": ("RGB", "PALETTE COLOR", "", "MONOCHROME1", "MONOCHROME3", "YBR_FULL", "monochrome2", "MONOCHROME2\\RGB"),
    **dict.fromkeys(("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"), UIDS),
    **dict.fromkeys(("PatientID", "PatientName", "SeriesDescription", "StudyDate", "StudyTime", "Manufacturer", "ImageType"), TEXTS),
    **dict.fromkeys(("BodyPartExamined", "QualityControlImage", "ContrastBolusAgent", "AcquisitionDateTime", "ProtocolName"), TEXTS),
    "SpecificCharacterSet": ("ISO_IR 999", "ISO 2022 IR 87", "", "ISO_IR 192", "\\ISO 2022 IR 149", "GB18030", "rubbish", "\xff"),
}  # fmt: skip
ODD = (
    "missing", "one", "doubled", "other pixels", "reversed", "two series", "two orientations", "big gap", "other size", "other patient",
)  # fmt: skip
DAMAGES = (
    "flip", "flip", "header", "cut", "cut", "zero", "insert", "empty", "text", "deflated", "lengths", "preamble", "tail",
)  # fmt: skip


def put(one: Dataset, keyword: str, value: int | str) -> None:
    """Set an element to what may stand in a file, whatever pydicom says to it."""
    tag, vr = Tag(tag_for_keyword(keyword)), dictionary_VR(keyword)
    data = struct.pack("<H", value & 0xFFFF) if isinstance(value, int) else value.encode("utf-8")
    data += b" " * (len(data) % 2)
    one._dict[tag] = RawDataElement(tag, vr, len(data), data, 0, False, True)


def some_of(rng: Random, items: list) -> list:
    """One, some or all."""
    return rng.choice([[rng.choice(items)], rng.sample(items, max(len(items) // 2, 1)), items])


def wrong_field(rng: Random, slices: list[Dataset]) -> str:
    """An element with another value."""
    keyword = rng.choice(sorted(FIELDS))
    value = rng.choice(FIELDS[keyword])
    chosen = some_of(rng, slices)
    for one in chosen:
        put(one, keyword, value)
    return f"{keyword} = {value!r} in {len(chosen)} files"


def missing_field(rng: Random, slices: list[Dataset]) -> str:
    """An element that lacks."""
    keyword = rng.choice([one.keyword for one in slices[0]])
    chosen = some_of(rng, slices)
    for one in chosen:
        del one[keyword]
    return f"no {keyword} in {len(chosen)} files"


def wrong_syntax(rng: Random, slices: list[Dataset]) -> str:
    """Another transfer syntax than that of the bytes; ``save`` changes the name alone."""
    syntax = rng.choice(SYNTAXES)
    chosen = some_of(rng, slices)
    for one in chosen:
        one.lying_syntax = syntax
    return f"TransferSyntaxUID = {syntax!r} in {len(chosen)} files"


def lying_image(rng: Random, slices: list[Dataset]) -> str:
    """A compressed image that says it is huge, or is cut, or none."""
    import cv2

    kind = rng.choice(["jpeg", "jpeg2000", "jpegls", "lossless", "rle"])
    side = rng.choice([33, 4000, 30000, 65535])
    grey = np.frombuffer(slices[0].PixelData, "<u2").reshape(sound.SHAPE[1], sound.SHAPE[0])
    big = struct.pack(">HH", side, side)
    if kind == "jpeg2000":
        data = cv2.imencode(".jp2", np.tile(grey, (8, 8)))[1].tobytes()
        data = bytearray(data[data.index(b"\xff\x4f\xff\x51") :])
        data[8:16] = struct.pack(">II", side * rng.choice([1, 1000]), side)
        syntax = "1.2.840.10008.1.2.4.90"
    elif kind == "jpeg":
        data = bytearray(cv2.imencode(".jpg", (grey // 8).astype(np.uint8))[1].tobytes())
        start = data.index(b"\xff\xc0") + 5
        data[start : start + 4] = big
        syntax = "1.2.840.10008.1.2.4.50"
    elif kind == "rle":
        data = bytearray(
            struct.pack(
                "<16I", rng.choice([1, 2, 15, 1 << 30]), 64, *[rng.choice([64, 70, 1 << 31]) for _ in range(14)]
            )
            + b"\x81\x05" * 3000
        )
        syntax = "1.2.840.10008.1.2.5"
    else:
        frame = b"\xff\xf7" if kind == "jpegls" else b"\xff\xc3"
        data = bytearray(
            b"\xff\xd8"
            + frame
            + struct.pack(">HB", 11, 16)
            + big
            + b"\x01\x01\x11\x00"
            + b"\xff\xda\x00\x08\x01\x01\x00\x01\x00\x00"
            + b"\x55" * 400
            + b"\xff\xd9"
        )
        syntax = "1.2.840.10008.1.2.4.80" if kind == "jpegls" else "1.2.840.10008.1.2.4.70"
    agree = rng.random() < 0.4
    if rng.random() < 0.3:
        data = data[: rng.randrange(len(data))]
    for one in some_of(rng, slices):
        one.PixelData = encapsulate([bytes(data)])
        one["PixelData"].is_undefined_length = True
        one.file_meta.TransferSyntaxUID = syntax
        if agree:
            put(one, "Rows", side)
            put(one, "Columns", side)
        if kind == "jpeg":
            one.BitsAllocated, one.BitsStored, one.HighBit = 8, 8, 7
    return f"{kind} of {side} x {side}, header agrees: {agree}"


def wrong_pixels(rng: Random, slices: list[Dataset]) -> str:
    """Fewer or more pixels, none, floats that are no numbers."""
    kind = rng.choice(["short", "long", "none", "empty", "float", "zero", "odd"])
    for one in some_of(rng, slices):
        if kind == "float":
            values = np.frombuffer(one.PixelData, "<u2").astype("<f4") * np.float32(rng.choice([1, 1e30, 1e38]))
            values[rng.randrange(len(values)) :] = rng.choice([np.nan, np.inf, 1e38, 0])
            one.FloatPixelData, one.BitsAllocated = values.tobytes(), 32
            del one.PixelData, one.BitsStored, one.HighBit, one.PixelRepresentation
        elif kind == "none":
            del one.PixelData
        else:
            data = one.PixelData
            one.PixelData = {
                "short": data[: len(data) // 2],
                "long": data * 3,
                "empty": b"",
                "zero": bytes(len(data)),
                "odd": data[:-3],
            }[kind]
    return f"pixels {kind}"


def odd_series(rng: Random, slices: list[Dataset]) -> str:
    """Slices that lack, are there twice, lie in one place, or are those of two series."""
    kind = rng.choice(ODD)
    if kind == "missing":
        del slices[rng.randrange(1, 5) : rng.randrange(6, 9)]
    elif kind == "one":
        del slices[1:]
    elif kind in ("doubled", "other pixels"):
        copy = sound.dicom(5 if kind == "other pixels" else 1, str(slices[0].PatientID))[4]
        copy.SOPInstanceUID = copy.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4.5"
        copy.StudyInstanceUID, copy.SeriesInstanceUID = slices[0].StudyInstanceUID, slices[0].SeriesInstanceUID
        slices.append(copy)
    elif kind == "reversed":
        slices.reverse()
    elif kind == "two series":
        slices[0].SeriesInstanceUID = "1.2.3.99"
    elif kind == "two orientations":
        put(slices[0], "ImageOrientationPatient", "0\\1\\0\\0\\0\\-1")
    elif kind == "big gap":
        put(slices[-1], "ImagePositionPatient", f"0\\0\\{rng.choice([400, 1e5, 1e9, -1e9, 1e15])}")
    elif kind == "other size":
        slices[-1].Rows, slices[-1].PixelData = (
            sound.SHAPE[1] // 2,
            slices[-1].PixelData[: len(slices[-1].PixelData) // 2],
        )
    else:
        slices[0].PatientID = "P-OTHER"
    return f"series: {kind}"


def nested(rng: Random, slices: list[Dataset]) -> str:
    """Private elements, and sequences in sequences, which ``save`` writes as bytes."""
    depth, closed = rng.choice([3, 40, 300, 2000, 20_000]), rng.random() < 0.7
    start = b"\x08\x00\x10\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    end = b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
    for one in some_of(rng, slices):
        block = one.private_block(0x0099, "MAKER 1.0", create=True)
        block.add_new(0x01, "LO", "x" * 60)
        block.add_new(0x03, "UN", rng.randbytes(rng.choice([0, 4, 5000])))
        one.extra_bytes = start * depth + end * (depth if closed else 0)
    return f"private elements, sequences {depth} deep{'' if closed else ', not closed'}"


def multiframe(rng: Random, slices: list[Dataset]) -> str:
    """Enhanced MR with another number of frames than it holds, or groups that lack."""
    one = sound.enhanced(1, str(slices[0].PatientID))
    kind = rng.choice(["count", "groups", "no groups", "position", "pixels", "shared", "sound", "plain count"])
    if kind == "count":
        put(one, "NumberOfFrames", rng.choice(FIELDS["NumberOfFrames"]))
    elif kind == "groups":
        del one.PerFrameFunctionalGroupsSequence[rng.randrange(9)]
    elif kind == "no groups":
        del one.PerFrameFunctionalGroupsSequence
    elif kind == "position":
        put(
            one.PerFrameFunctionalGroupsSequence[3].PlanePositionSequence[0],
            "ImagePositionPatient",
            rng.choice(POSITIONS),
        )
    elif kind == "pixels":
        one.PixelData = one.PixelData[: rng.randrange(len(one.PixelData)) // 2 * 2]
    elif kind == "shared":
        put(one.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0], "PixelSpacing", rng.choice(PAIRS))
    elif kind == "plain count":
        for part in slices:
            put(part, "NumberOfFrames", rng.choice(FIELDS["NumberOfFrames"]))
        return "NumberOfFrames in plain files"
    slices[:] = [one]
    return f"multi-frame: {kind}"


HEADERS = (wrong_field, wrong_field, wrong_field, missing_field, wrong_syntax, odd_series, nested, wrong_pixels)


# ---------------------------------------------------------------------------------------------------------------------
# bytes


def save(slices: list[Dataset], folder: Path) -> list[Path]:
    """Write a series, lies about its transfer syntax and nested sequences among it."""
    lies = [one.__dict__.pop("lying_syntax", None) for one in slices]
    extra = [one.__dict__.pop("extra_bytes", b"") for one in slices]
    files = sound.save_dicom(slices, folder)
    for file, syntax, more in zip(files, lies, extra, strict=True):
        data = file.read_bytes()
        end = 144 + struct.unpack("<I", data[140:144])[0]  # of the file meta information
        meta = _with_syntax(data[:end], syntax) if syntax is not None else data[:end]
        if syntax is not None or more:
            file.write_bytes(meta + more + data[end:])
    return files


def _with_syntax(meta: bytes, syntax: str) -> bytes:
    """File meta information with another transfer syntax."""
    start = meta.index(b"\x02\x00\x10\x00UI")
    end = start + 8 + struct.unpack("<H", meta[start + 6 : start + 8])[0]
    new = syntax.encode() + b"\0" * (len(syntax) % 2)
    changed = meta[:start] + b"\x02\x00\x10\x00UI" + struct.pack("<H", len(new)) + new + meta[end:]
    return changed[:140] + struct.pack("<I", len(changed) - 144) + changed[144:]


def damage(rng: Random, files: list[Path]) -> str:
    """Change the bytes of files."""
    kind = rng.choice(DAMAGES)
    chosen = some_of(rng, files)
    for file in chosen:
        data = bytearray(file.read_bytes())
        if kind == "flip":
            for _ in range(rng.choice([1, 10, 200])):
                data[rng.randrange(len(data))] = rng.randrange(256)
        elif kind == "header":
            for _ in range(rng.choice([1, 4])):
                data[rng.randrange(128, 900)] = rng.randrange(256)
        elif kind == "cut":
            del data[rng.randrange(len(data)) :]
        elif kind == "zero":
            start = rng.randrange(len(data))
            data[start : start + 200] = bytes(len(data[start : start + 200]))
        elif kind == "insert":
            start = rng.randrange(len(data))
            data[start:start] = rng.randbytes(rng.choice([1, 2, 100]))
        elif kind == "empty":
            data = bytearray()
        elif kind == "text":
            data = bytearray(b"<html>404 not found</html>")
        elif kind == "deflated":  # a few MB that unpack to gigabytes
            end = 144 + struct.unpack("<I", data[140:144])[0]
            packer = zlib.compressobj(9, zlib.DEFLATED, -15)
            packed = packer.compress(bytes(data[end:]))
            packed += packer.flush(zlib.Z_SYNC_FLUSH) + sound.zeros() if file == chosen[0] else packer.flush()
            data = _with_syntax(bytes(data[:end]), "1.2.840.10008.1.2.1.99") + packed
        elif kind == "lengths":
            for _ in range(3):
                start = rng.randrange(132, len(data) - 4)
                data[start : start + 4] = struct.pack("<I", rng.choice([0xFFFFFFFF, 0xFFFFFFFE, 0x7FFFFFFF, 0, 1]))
        elif kind == "preamble":
            del data[: rng.choice([128, 132, 10])]
        else:
            data += rng.randbytes(rng.choice([1, 1000, 100_000]))
        file.write_bytes(data)
    return f"bytes: {kind} in {len(chosen)} files"
