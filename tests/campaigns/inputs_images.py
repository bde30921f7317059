"""NIfTI files and folders of pictures with one thing wrong."""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image

from . import sound

DTYPES = {
    2: 1,
    4: 2,
    8: 4,
    16: 4,
    32: 8,
    64: 8,
    128: 3,
    256: 1,
    512: 2,
    768: 4,
    1024: 8,
    1280: 8,
    1536: 16,
    1792: 16,
    2304: 4,
    0: 2,
    1: 1,
    99: 2,
}
"""Codes of NIfTI's data types, unknown ones among them, and bytes of a voxel."""
FLOATS = (0.0, -1.0, float("nan"), float("inf"), 1e-30, 1e30, 1e-6, 3e38, 0.5, 1e5)


def header_field(rng: Random, data: bytearray) -> str:
    """A number of the header."""
    name, place, kind, values = rng.choice(
        [
            ("dim[0]", 40, "h", (0, 1, 2, 4, 5, 7, 8, -1, 30000)),
            (f"dim[{1}]", 42, "h", (0, 1, -5, 31, 33, 64, 4096, 32767)),
            (f"dim[{3}]", 46, "h", (0, 1, -5, 9, 11, 4096, 32767)),
            ("dim[4]", 48, "h", (0, 2, 10, -1, 32767)),
            ("pixdim[0]", 76, "f", FLOATS), ("pixdim[1]", 80, "f", FLOATS), ("pixdim[3]", 88, "f", FLOATS),
            ("vox_offset", 108, "f", (*FLOATS, 100.0, 353.0, 368.0, 1e9, 1e12)),
            ("scl_slope", 112, "f", FLOATS), ("scl_inter", 116, "f", FLOATS),
            ("qform_code", 252, "h", (0, 1, 5, -1, 99)), ("sform_code", 254, "h", (0, 1, 5, -1, 99)),
            ("srow_x[0]", 280, "f", FLOATS), ("srow_y[1]", 300, "f", FLOATS), ("srow_z[2]", 320, "f", FLOATS), ("srow_x[3]", 292, "f", FLOATS),
            ("sizeof_hdr", 0, "i", (0, 540, 347, -1)), ("xyzt_units", 123, "b", (0, 1, 3, 127)), ("quatern_b", 256, "f", FLOATS),
        ]
    )  # fmt: skip
    value = rng.choice(values)
    struct.pack_into(f"<{kind}", data, place, value)
    if name.startswith("qform") or name.startswith("quatern"):
        struct.pack_into("<h", data, 254, 0)
        struct.pack_into("<h", data, 252, 1)
    if name == "dim[4]":
        struct.pack_into("<h", data, 40, 4)
    return f"{name} = {value}"


def data_type(rng: Random, data: bytearray) -> str:
    """Another type of voxels, with as many bytes as it needs or not."""
    code = rng.choice(sorted(DTYPES))
    struct.pack_into("<hh", data, 70, code, DTYPES[code] * 8)
    fits = rng.random() < 0.7
    if fits:
        count = int(np.prod(sound.SHAPE))
        data[352:] = rng.randbytes(count * DTYPES[code])
    return f"datatype {code}, {'as many' if fits else 'other'} bytes"


def affine(rng: Random, data: bytearray) -> str:
    """An affine that is singular, sheared, mirrored, turned or huge."""
    kind = rng.choice(
        ["singular", "sheared", "nan row", "mirrored", "huge", "tiny", "turned", "zero", "far", "all inf"]
    )
    matrix = np.diag([-5.0, -6.0, 8.0, 1.0])[:3]
    if kind == "singular":
        matrix[2] = matrix[1]
    elif kind == "sheared":
        matrix[0, 1:3] = rng.uniform(-9, 9), rng.uniform(-9, 9)
    elif kind == "nan row":
        matrix[1] = np.nan
    elif kind == "mirrored":
        matrix[:, 0] *= -1
    elif kind in ("huge", "tiny"):
        matrix *= {"huge": 1e12, "tiny": 1e-6}[kind]
    elif kind == "turned":
        matrix[:, :3] = matrix[:, [2, 0, 1]] + rng.uniform(-2, 2)
    elif kind == "zero":
        matrix[:] = 0
    elif kind == "far":
        matrix[:, 3] = 1e30
    else:
        matrix[:] = np.inf
    struct.pack_into("<hh", data, 252, 0, 1)
    struct.pack_into("<12f", data, 280, *matrix.ravel())
    return f"affine {kind}"


def voxels(rng: Random, data: bytearray) -> str:
    """Values that are no numbers, huge, all the same, or negative."""
    kind = rng.choice(
        ["nan", "inf", "all nan", "constant", "zero", "huge", "negative", "one voxel", "double", "tiny", "int64"]
    )
    values = sound.brain(1).astype("<f8")
    where = values > rng.choice([-1, 300, 600])
    if kind in ("nan", "inf"):
        values[where] = {"nan": np.nan, "inf": -np.inf}[kind]
    elif kind in ("all nan", "constant", "zero"):
        values[:] = {"all nan": np.nan, "constant": 7, "zero": 0}[kind]
    elif kind in ("huge", "tiny"):
        values *= {"huge": 1e35, "tiny": 1e-40}[kind]
    elif kind == "double":
        values *= 1e300
    elif kind == "negative":
        values = -values - 5
    elif kind == "one voxel":
        values[:] = 0
        values[10, 10, 5] = 1
    code, dtype = rng.choice([(16, "<f4"), (64, "<f8")])
    if kind == "int64":
        code, dtype, values = 1024, "<i8", values * 1e15
    struct.pack_into("<hh", data, 70, code, 8 * np.dtype(dtype).itemsize)
    with np.errstate(all="ignore"):
        data[352:] = values.astype(dtype).tobytes(order="F")
    return f"voxels {kind} as {dtype}"


def shape(rng: Random, data: bytearray) -> str:
    """A picture, several volumes, one slice, or more voxels than bytes."""
    sides = rng.choice(
        [
            (32, 28),
            (320, 28),
            (8960,),
            (32, 28, 5, 2),
            (32, 28, 10, 1),
            (32, 28, 10, 1, 1),
            (16, 28, 10, 2),
            (1, 28, 320),
            (32, 28, 1),
            (3000, 3000, 11),
            (4096, 4096, 5),
            (2, 2, 2),
            (32, 14, 20),
        ]
    )
    struct.pack_into("<8h", data, 40, len(sides), *(sides + (1,) * 7)[:7])
    return f"shape {sides}"


NIFTI = (header_field, header_field, data_type, affine, affine, voxels, voxels, shape)


def nifti(rng: Random, place: Path) -> tuple[str, list[Path]]:
    """A NIfTI file of the patient whose folder ``place`` is."""
    place.mkdir(parents=True)
    data = bytearray(sound.nifti(1))
    claim = rng.choice(NIFTI)(rng, data) if rng.random() < 0.75 else "as it is"
    kind = rng.choice(
        [
            "plain",
            "plain",
            "gz",
            "gz",
            "cut",
            "cut gz",
            "bomb",
            "flip",
            "flip gz",
            "under .gz",
            "gz as .nii",
            "empty",
            "extension",
            "text",
        ]
    )
    file = (
        place
        / f"{place.name}_flair.{'nii' if kind in ('plain', 'cut', 'flip', 'gz as .nii', 'extension') else 'nii.gz'}"
    )
    if kind in ("flip",):
        for _ in range(rng.choice([1, 20])):
            data[rng.randrange(rng.choice([352, len(data)]))] = rng.randrange(256)
    elif kind == "cut":
        del data[rng.choice([rng.randrange(352), rng.randrange(len(data))]) :]
    elif kind == "extension":
        data[348] = 1
        struct.pack_into("<f", data, 108, rng.choice([368.0, 1e6, 1e9]))
        data[352:352] = struct.pack("<ii", rng.choice([16, 0, -16, 1 << 30, 7]), 6) + b"12345678"
    packed = bytes(data)
    if kind in ("gz", "cut gz", "flip gz", "gz as .nii"):
        packed = gzip.compress(packed, 1)
    if kind == "cut gz":
        packed = packed[: rng.randrange(len(packed))]
    elif kind == "flip gz":
        at = rng.randrange(len(packed))
        packed = packed[:at] + rng.randbytes(1) + packed[at + 1 :]
    elif kind == "bomb":  # a few MB that unpack to 3 GB
        if rng.random() < 0.5:  # the header claims some of it
            struct.pack_into("<8h", data, 40, 3, 4000, 4000, 6, 1, 1, 1, 1)
        if rng.random() < 0.3:
            data[348] = 1
            struct.pack_into("<f", data, 108, 2e9)
            data[352:352] = struct.pack("<ii", 2_000_000_000 // 16 * 16, 6)
        packer = zlib.compressobj(1, zlib.DEFLATED, -15)
        packed = (
            b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
            + packer.compress(bytes(data))
            + packer.flush(zlib.Z_SYNC_FLUSH)
            + sound.zeros()
        )
    elif kind in ("empty", "text"):
        packed = b"" if kind == "empty" else b"not found\n"
    file.write_bytes(packed)
    return f"{claim}; {kind}", [file]


# ---------------------------------------------------------------------------------------------------------------------
# pictures


def _picture(array: np.ndarray, form: str, **how: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, form, **how)
    return stream.getvalue()


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _claims(form: str, data: bytes, side: int) -> bytes:
    """A picture that says it has such a side."""
    if form == "PNG":
        head = struct.pack(">II", side, side) + data[24:29]
        return data[:8] + _chunk(b"IHDR", head) + data[33:]
    start = data.index(b"\xff\xc0") + 5
    return data[:start] + struct.pack(">HH", min(side, 65535), min(side, 65535)) + data[start + 4 :]


def _bomb(rng: Random, data: bytes) -> bytes:
    """A PNG with text, or pixels, that unpack to gigabytes."""
    zeros = b"\x78\x01" + sound.zeros()
    kind = rng.choice(["text", "profile", "pixels"])
    if kind == "pixels":
        return data[:33] + _chunk(b"IDAT", zeros) + _chunk(b"IEND", b"")
    name, content = {"text": (b"zTXt", b"a\0\0" + zeros), "profile": (b"iCCP", b"a\0\0" + zeros)}[kind]
    return data[:33] + _chunk(name, content) + data[33:]


def pictures(rng: Random, place: Path) -> tuple[str, list[Path]]:
    """A folder of pictures ``FLAIR`` of the patient whose folder ``place`` is."""
    folder = place / "FLAIR"
    folder.mkdir(parents=True)
    form = rng.choice(["PNG", "JPEG"])
    ending = "png" if form == "PNG" else "jpg"
    volume = (sound.brain(1) // 5).clip(0, 255).astype(np.uint8)
    files = [folder / f"Image-{number + 1}.{ending}" for number in range(sound.SHAPE[2])]
    for number, file in enumerate(files):
        file.write_bytes(_picture(np.ascontiguousarray(volume[:, :, number].T), form))
    kind = rng.choice(
        ["cut", "cut", "claims", "claims", "other form", "text", "empty", "flip", "flip", "colour", "wide", "palette", "16 bit", "alpha", "cmyk", "size", "no number",
         "same number", "bomb", "constant", "huge number", "one", "1x1", "upper case", "gif"]
    )  # fmt: skip
    chosen = rng.choice([files[:1], files[3:4], files])
    side = rng.choice([33, 4096, 5000, 20000, 65535, 1 << 30, (1 << 31) - 1])
    for file in chosen:
        data, grey = file.read_bytes(), np.asarray(Image.open(file))
        if kind == "cut":
            data = data[: rng.randrange(len(data))]
        elif kind == "claims":
            data = _claims(form, data, side)
        elif kind == "other form":
            data = _picture(grey, rng.choice(["GIF", "BMP", "TIFF", "WEBP", "JPEG", "PNG", "PPM"]))
        elif kind in ("text", "empty"):
            data = b"<html>" if kind == "text" else b""
        elif kind == "flip":
            changed = bytearray(data)
            for _ in range(rng.choice([1, 10])):
                changed[rng.randrange(len(data))] = rng.randrange(256)
            data = bytes(changed)
        elif kind in ("colour", "alpha"):
            data = _picture(np.dstack([grey] * (3 if kind == "colour" or form == "JPEG" else 4)), form)
        elif kind == "wide":
            data = _picture(np.tile(grey, (1, 100)), form)
        elif kind == "palette" and form == "PNG":
            stream = io.BytesIO()
            Image.fromarray(grey).convert("P").save(stream, "PNG")
            data = stream.getvalue()
        elif kind == "16 bit":
            data = _picture(grey.astype(np.uint16) * 200, "PNG")
        elif kind == "cmyk":
            data = _picture(np.dstack([grey] * 3), "JPEG")
        elif kind == "size":
            data = _picture(grey[:10], form)
        elif kind == "bomb":
            data = _bomb(rng, _picture(grey, "PNG"))
        elif kind == "constant":
            data = _picture(np.zeros_like(grey), form)
        elif kind == "1x1":
            data = _picture(grey[:1, :1], form)
        elif kind == "gif":
            file.rename(file.with_suffix(".gif"))
            continue
        file.write_bytes(data)
        if kind == "bomb":
            break
    renamed = {
        "no number": "Image.png",
        "same number": "Other-2.png",
        "huge number": f"Image-{'9' * 150}.png",
        "upper case": "Image-1.PNG",
    }
    if kind in renamed:
        files[0].rename(folder / renamed[kind])
    elif kind == "one":
        for file in files[1:]:
            file.unlink()
    return f"{form} {kind}{f' {side}' if kind == 'claims' else ''} in {len(chosen)}", files
