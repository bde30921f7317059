"""Studies whose every place for identity holds a mark of its own, and a search for these marks in all that a run left behind."""

from __future__ import annotations

import gzip
import io
import re
import zipfile
import zlib
from functools import lru_cache
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401
import nibabel as nib
import numpy as np
from PIL import Image, PngImagePlugin
from pydicom._dicom_dict import DicomDictionary
from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from scripts.explore.profile import tags

TEXTS = ("PN", "LO", "SH", "LT", "ST", "UT", "UC", "CS", "AE", "UR")
GROUPS = (0x0008, 0x0010, 0x0012, 0x0018, 0x0020, 0x0032, 0x0038, 0x0040)
SHAPE = (40, 36, 10)
ITS_OWN = {
    "SOPInstanceUID",
    "SOPClassUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "PatientID",
    "ContentSequence",
}
"""Attributes that a series can't be without; of the UIDs those that are linked have marks too."""
DESCRIPTIONS = {"FLAIR": "AX FLAIR", "T1w": "AX T1 PRE", "T1wCE": "AX T1 POST GAD", "T2w": "AX T2"}


class Marks:
    """Marks that are given out, each once, and where each of them stands."""

    def __init__(self) -> None:
        self.places: dict[str, str] = {}

    def new(self, place: str, kind: str = "LO") -> str:
        """A value of a VR that is found nowhere else."""
        count = len(self.places)
        value = {
            "DA": f"{1731 + count // 300}{1 + count % 300 // 25:02d}{1 + count % 25:02d}",
            "TM": f"{count % 24:02d}3751.{604217 + count * 13 % 300000:06d}",
            "UI": f"1.2.826.0.1.77331.{count + 1}.{90817263 + count}",
            "DS": f"7.{31960000 + count}31",
            "IS": f"{1731960000 + count}",
        }.get(kind, f"zqjx{count:04d}")
        if kind == "DT":
            value = f"{1731 + count // 300}{1 + count % 300 // 25:02d}{1 + count % 25:02d}233751.{604217 + count:06d}"
        self.places[value.lower()] = place
        return value.upper() if kind == "CS" else value

    def patterns(self) -> dict[str, str]:
        """What is searched for, and where it was put: dates also as ``YYYY-MM-DD``."""
        found = dict(self.places)
        for value, place in self.places.items():
            if re.fullmatch(r"1[78]\d{6}", value[:8]) and "." not in value[:8]:
                found[value[:8]] = place
                found[f"{value[:4]}-{value[4:6]}-{value[6:8]}"] = place
        return found


@lru_cache
def _identifying() -> tuple[int, ...]:
    """PS3.15's table E.1-1, and all names of persons, dates and times in groups about people and visits."""
    others = {
        tag for tag, (vr, *_) in DicomDictionary.items() if tag >> 16 in GROUPS and vr in ("PN", "DA", "TM", "DT")
    }
    return tuple(sorted({tag for tag in tags() if tag >> 16 >= 8} | others))


def plant(dataset: Dataset, marks: Marks, where: str) -> None:
    """Give every attribute of PS3.15's table, and all other names, dates and times, a mark of its own; private ones and nested ones too."""
    for tag in _identifying():
        keyword = keyword_for_tag(tag)
        if not keyword or keyword in ITS_OWN or keyword in dataset:
            continue
        kind = dictionary_VR(tag)
        if kind == "SQ":
            item = Dataset()
            item.PatientName = marks.new(f"{where} {keyword}.PatientName", "PN")
            item.ContentDate = marks.new(f"{where} {keyword}.ContentDate", "DA")
            item.TextValue = marks.new(f"{where} {keyword}.TextValue", "UT")
            setattr(dataset, keyword, Sequence([item]))
        elif kind in (*TEXTS, "DA", "TM", "DT", "UI", "DS", "IS"):
            setattr(dataset, keyword, marks.new(f"{where} {keyword}", kind))
    block = dataset.private_block(0x0011, marks.new(f"{where} private creator"), create=True)
    block.add_new(1, "LO", marks.new(f"{where} private LO"))
    block.add_new(2, "DA", marks.new(f"{where} private DA", "DA"))
    block.add_new(3, "UN", marks.new(f"{where} private UN").encode())
    item = Dataset()
    item.OtherPatientNames = marks.new(f"{where} private sequence", "PN")
    block.add_new(4, "SQ", Sequence([item]))


def brain(seed: int) -> np.ndarray:
    """An ellipsoid with something brighter in it, 0 around it; no skull."""
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij")
    inside = sum(axis**2 for axis in axes) < 0.8
    tumour = sum((axis - 0.2) ** 2 for axis in axes) < 0.08
    grey = np.random.default_rng(seed).normal(400, 30, SHAPE)
    return np.where(inside, grey + 300 * tumour, 0).clip(0).astype(np.uint16)


def dicom_series(
    folder: Path, marks: Marks, where: str, patient: str, study: str, description: str, seed: int, **values
) -> None:
    """A series of files in ``folder``, whose names are marks."""
    folder.mkdir(parents=True, exist_ok=True)
    series, frame = (marks.new(f"{where} {name}", "UI") for name in ("SeriesInstanceUID", "FrameOfReferenceUID"))
    common = Dataset()
    for keyword, value in values.items():
        setattr(common, keyword, value)
    common.SeriesDescription = description
    plant(common, marks, where)
    voxels = brain(seed)
    for place in range(SHAPE[2]):
        dataset = Dataset()
        dataset.update(common)
        dataset.SOPClassUID, dataset.SOPInstanceUID = MRImageStorage, f"{series}.{place + 1}"
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = study, series, frame
        dataset.PatientID, dataset.Modality, dataset.ImageType = patient, "MR", ["ORIGINAL", "PRIMARY"]
        dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = SHAPE[1], SHAPE[0], 1
        dataset.PhotometricInterpretation, dataset.PixelRepresentation = "MONOCHROME2", 0
        dataset.BitsAllocated = dataset.BitsStored = 16
        dataset.HighBit, dataset.InstanceNumber, dataset.SeriesNumber = 15, place + 1, seed + 1
        dataset.ImageOrientationPatient, dataset.PixelSpacing = [1, 0, 0, 0, 1, 0], [5, 5]
        dataset.ImagePositionPatient, dataset.SliceThickness = [-100, -90, 12 * place], 12
        dataset.PixelData = voxels[..., place].T.tobytes()
        meta = dataset.file_meta = FileMetaDataset()
        meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, MRImageStorage
        meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        meta.SourceApplicationEntityTitle = marks.new(f"{where} file meta", "AE")
        meta.PrivateInformationCreatorUID = generate_uid()
        meta.PrivateInformation = marks.new(f"{where} private file meta").encode()
        dataset.preamble = marks.new(f"{where} preamble").encode().ljust(128, b"\0")
        dataset.save_as(folder / f"{marks.new(f'{where} file name')}.dcm", enforce_file_format=True)


def nifti(file: Path, marks: Marks, where: str, seed: int) -> None:
    """A NIfTI file with marks in all texts of its header and in its extensions."""
    file.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(brain(seed).astype(np.float32), np.diag([5, 5, 12, 1]))
    for name in ("descrip", "db_name", "aux_file", "intent_name"):
        image.header[name] = marks.new(f"{where} {name}").encode()
    for code in (0, 2, 4, 6):
        image.header.extensions.append(
            nib.nifti1.Nifti1Extension("comment", marks.new(f"{where} extension {code}").encode())
        )
    nib.save(image, file)


def pictures(folder: Path, marks: Marks, where: str, seed: int) -> None:
    """A folder of PNG with marks in their text chunks."""
    folder.mkdir(parents=True, exist_ok=True)
    for place, plane in enumerate(np.moveaxis(brain(seed), 2, 0)):
        text = PngImagePlugin.PngInfo()
        text.add_text("Comment", marks.new(f"{where} PNG text"), zip=place % 2 == 0)
        name = f"{marks.new(f'{where} file name')}-{place + 1}.png"
        Image.fromarray((plane.T // 4).astype(np.uint8)).save(folder / name, pnginfo=text)


# ---------------------------------------------------------------------------------------------------------------------
# search


def _texts(data: bytes, depth: int = 0) -> list[bytes]:
    """A file's bytes, and what is packed into them."""
    found = [data]
    if depth > 3:
        return found
    if data[:2] == b"\x1f\x8b":
        found += _texts(gzip.decompress(data), depth + 1)
    elif data[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for member in archive.infolist():
                found += [member.filename.encode(), member.comment, *_texts(archive.read(member), depth + 1)]
    elif data[:8] == b"\x89PNG\r\n\x1a\n":
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            found += [str({**image.info, **dict(image.getexif())}).encode()]
    elif data[:8] == b"\x89HDF\r\n\x1a\n":
        found += _of_hdf5(data)
    else:
        for packed in re.findall(rb"data:[\w/+.-]+;base64,([A-Za-z0-9+/=]+)", data):
            import base64

            found += _texts(base64.b64decode(packed), depth + 1)
        for start in [match.start() for match in re.finditer(rb"\x78[\x01\x9c\xda]", data)][:50]:
            try:
                found.append(zlib.decompressobj().decompress(data[start:]))
            except zlib.error:
                continue
    return found


def _of_hdf5(data: bytes) -> list[bytes]:
    found = []

    def visit(name, node) -> None:
        found.extend([name.encode(), *(str(item).encode() for item in node.attrs.items())])
        if isinstance(node, h5py.Dataset):
            value = node[()]
            found.append(
                value.tobytes() if isinstance(value, np.ndarray) and value.dtype != object else str(value).encode()
            )

    with h5py.File(io.BytesIO(data)) as file:
        found += [str(item).encode() for item in file.attrs.items()]
        file.visititems(visit)
    return found


def search(places: list[Path], marks: dict[str, str], said: str = "") -> dict[str, set[str]]:
    """Where marks stand: by what was marked, the files (or ``said``) that reveal it."""
    texts = {"said": [said.encode()]}
    for place in places:
        for path in [place, *place.rglob("*")] if place.is_dir() else [place]:
            if path != place:
                texts[f"name of {path.relative_to(place)}"] = [path.relative_to(place).as_posix().encode()]
            if path.is_file():
                texts[str(path.relative_to(place.parent))] = _texts(path.read_bytes())
    anything = re.compile("|".join(re.escape(mark) for mark in sorted(marks, key=len, reverse=True)).encode())
    found: dict[str, set[str]] = {}
    for where, parts in texts.items():
        for part in parts:
            for match in anything.finditer(part.lower()):
                found.setdefault(marks[match[0].decode()], set()).add(where)
    return found


_FETCHES = re.compile(r"""(?:src|srcset|href|action|data|poster)\s*=\s*["']?\s*(?:https?:|ftp:|//)|url\(\s*["']?\s*(?:https?:|//)|@import|\bfetch\(|XMLHttpRequest|WebSocket|<(?:iframe|object|embed|base)\b""", re.IGNORECASE)  # fmt: skip


def fetched(page: str) -> list[str]:
    """What a page would fetch from elsewhere, or what could."""
    return _FETCHES.findall(re.sub(r'"data:[^"]*"', '""', page))
