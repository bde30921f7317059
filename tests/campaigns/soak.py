"""Soak: many small studies of every layout in one prediction, some of them broken, while memory, open files and pace are watched.

    python -m tests.campaigns.soak --count 1000 --seed 0 --output soak.md

Of the studies 5 % are broken, each in one of the ways of :data:`WAYS`. Every study must have its row, every broken one the reason, and all
sound ones of the same layout and image the same answer, whatever came before them.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image

from tests.campaigns import sound
from tests.campaigns.table import markdown_table

MRI_TYPES = ("FLAIR", "T1w", "T1wCE", "T2w")
IMAGES = 5  # different ones; the studies show them in turn
SHARE = 0.05  # of the studies are broken
PAUSE = 0.25  # seconds between two looks at the process


@dataclass(frozen=True)
class Study:
    """A study on disk: its patient, layout and image, how it was broken ("" if it is sound), and the files of its first series."""

    patient: str
    layout: str
    image: int
    way: str
    files: tuple[Path, ...]


def challenge(root: Path, number: int, image: int) -> tuple[str, list[Path]]:
    """``<patient>/FLAIR/Image-1.dcm``, as in the challenge."""
    patient = f"{number:05d}"
    return patient, [
        file
        for place, mri_type in enumerate(MRI_TYPES)
        for file in sound.save_dicom(sound.dicom(image * 4 + place, patient, mri_type), root / patient / mri_type)
    ]


def export(root: Path, number: int, image: int) -> tuple[str, list[Path]]:
    """DICOM files of four series in one folder, without a suffix, as a scanner's archive writes them."""
    patient = f"EXPORT{number:05d}"
    folder = root / "export" / patient
    folder.mkdir(parents=True)
    files = []
    for place, name in enumerate(("FLAIR ax", "T1 ax", "T1 ax post Gd", "T2 ax")):
        for one in sound.dicom(image * 4 + place, patient, name):
            one.StudyInstanceUID = f"1.2.826.0.1.3680043.8.498.1.{number + 1}"
            one.SeriesInstanceUID = f"{one.StudyInstanceUID}.{place + 1}"
            one.SOPInstanceUID = f"{one.SeriesInstanceUID}.{one.InstanceNumber}"
            one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID
            one.SeriesNumber, one.SeriesDescription = place + 1, name
            files.append(folder / f"IM{len(files):06d}")
            one.save_as(files[-1], enforce_file_format=True)
    return patient, files


def jpg(root: Path, number: int, image: int) -> tuple[str, list[Path]]:
    """``<patient>/FLAIR/Image-1.jpg``, the challenge's rendering."""
    patient, files = f"{number:05d}", []
    for place, mri_type in enumerate(MRI_TYPES):
        (root / patient / mri_type).mkdir(parents=True)
        volume = sound.brain(image * 4 + place)
        for index in range(volume.shape[2]):
            files.append(root / patient / mri_type / f"Image-{index + 1}.jpg")
            grey = np.clip(volume[:, :, index].T / 5, 0, 255).astype(np.uint8)
            Image.fromarray(grey).save(files[-1], quality=95)
    return patient, files


def _nifti(pattern: str, patient: str, names: tuple[str, ...]) -> Callable[[Path, int, int], tuple[str, list[Path]]]:
    """A writer of NIfTI files; ``{}`` of the pattern is the modality's name."""

    def write(root: Path, number: int, image: int) -> tuple[str, list[Path]]:
        who, files = patient.format(number), []
        for place, name in enumerate(names):
            files.append(root / pattern.format(who, name))
            files[-1].parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(sound.brain(image * 4 + place), np.diag([*_SIDES, 1])), files[-1])
        return who, files

    return write


_SIDES = (-sound.STEPS[0], -sound.STEPS[1], sound.STEPS[2])
LAYOUTS: dict[str, Callable[[Path, int, int], tuple[str, list[Path]]]] = {
    "challenge": challenge,
    "export": export,
    "jpg": jpg,
    "brats2021": _nifti("{0}/{0}_{1}.nii.gz", "BraTS2021_{:05d}", ("flair", "t1", "t1ce", "t2")),
    "brats2023": _nifti("{0}/{0}-{1}.nii.gz", "BraTS-GLI-{:05d}-000", ("t2f", "t1n", "t1c", "t2w")),
    "bids": _nifti("{0}/ses-1/anat/{0}_ses-1_{1}.nii.gz", "sub-{:05d}", ("FLAIR", "T1w", "ce-gd_T1w", "T2w")),
    "upenn": _nifti("{0}/{0}_{1}.nii.gz", "UPENN-GBM-{:05d}_11", ("FLAIR", "T1", "T1GD", "T2")),
    "plain": _nifti("{0}/{1}.nii.gz", "patient{:05d}", ("flair", "t1", "t1c", "t2")),
}


def _cut(files: list[Path]) -> None:
    for file in files:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _filled(content: bytes) -> Callable[[list[Path]], None]:
    def fill(files: list[Path]) -> None:
        for file in files:
            file.write_bytes(content)

    return fill


def _header(**values: object) -> Callable[[list[Path]], None]:
    """Give all slices these values; None takes the attribute away."""

    def change(files: list[Path]) -> None:
        import pydicom

        for file in files:
            one = pydicom.dcmread(file)
            for name, value in values.items():
                if value is None:
                    delattr(one, name)
                else:
                    setattr(one, name, value)
            one.save_as(file)

    return change


def _voxels(
    change: Callable[[np.ndarray], np.ndarray], affine: np.ndarray | None = None
) -> Callable[[list[Path]], None]:
    def rewrite(files: list[Path]) -> None:
        for file in files:
            image = nib.load(file)
            grid = image.affine if affine is None else affine
            changed = nib.Nifti1Image(change(np.asarray(image.dataobj)), None)
            changed.header.set_sform(grid, code=1)
            changed.header.set_qform(None, code=0)
            nib.save(changed, file)

    return rewrite


def _said_to_be(syntax: bytes) -> Callable[[list[Path]], None]:
    """Name another transfer syntax, of the same length as the true one."""

    def change(files: list[Path]) -> None:
        for file in files:
            file.write_bytes(file.read_bytes().replace(b"1.2.840.10008.1.2.1\0", syntax + b"\0", 1))

    return change


def _dangling(files: list[Path]) -> None:
    for file in files:
        file.unlink()
        file.symlink_to("nowhere")


WAYS: dict[str, tuple[str, Callable[[list[Path]], None]]] = {
    "files cut in half": ("challenge", _cut),
    "text in place of DICOM": ("challenge", _filled(b"not an image\n")),
    "empty files": ("challenge", _filled(b"")),
    "slices of nothing but 0": ("challenge", _header(PixelData=bytes(2 * sound.SHAPE[0] * sound.SHAPE[1]))),
    "no pixel data": ("challenge", _header(PixelData=None)),
    "Rows of 60,000": ("challenge", _header(Rows=60000)),
    "no slice has a place": ("challenge", _header(ImagePositionPatient=None, ImageOrientationPatient=None, Rows=0)),
    "pixels of no size": ("challenge", _header(PixelSpacing=[0, 0])),
    "unknown transfer syntax": ("challenge", _said_to_be(b"1.2.840.10008.1.2.9")),
    "RLE that is none": ("challenge", _said_to_be(b"1.2.840.10008.1.2.5")),
    "JPGs cut in half": ("jpg", _cut),
    "text in place of JPG": ("jpg", _filled(b"not an image\n")),
    "archive cut in half": ("brats2021", _cut),
    "empty file": ("brats2021", _filled(b"")),
    "text in place of NIfTI": ("brats2023", _filled(b"not an image\n")),
    "voxels that are no numbers": ("brats2023", _voxels(lambda values: np.full(values.shape, np.nan, np.float32))),
    "nothing but 0": ("bids", _voxels(np.zeros_like)),
    "one slice alone, without depth": ("bids", _voxels(lambda values: values[:, :, 0])),
    "affine that is no number": ("upenn", _voxels(np.copy, np.full((4, 4), np.nan))),
    "link to nowhere": ("plain", _dangling),
    "four dimensions": ("plain", _voxels(lambda values: np.stack([values, values], axis=-1))),
}
"""How a study's FLAIR is broken: the layout, and what is done to the files of the series."""


def write_studies(root: Path, count: int, seed: int) -> list[Study]:
    """Write the studies; the broken ones lie anywhere among them, each way as often as another."""
    rng = np.random.default_rng(seed)
    broken = dict(
        zip(
            rng.choice(count, max(round(count * SHARE), 1), replace=False).tolist(),
            (list(WAYS) * (count // len(WAYS) + 1))[: max(round(count * SHARE), 1)],
            strict=True,
        )
    )
    studies, layouts = [], list(LAYOUTS)
    for number in range(count):
        way = broken.get(number, "")
        layout = WAYS[way][0] if way else layouts[number % len(layouts)]
        image = number // len(layouts) % IMAGES
        patient, files = LAYOUTS[layout](root, number, image)
        first = files[: len(files) // len(MRI_TYPES)]
        if way:
            WAYS[way][1](first)
        studies.append(Study(patient, layout, image, way, tuple(first)))
    return studies


@dataclass(frozen=True)
class Look:
    """The process at a moment: seconds since its start, series that are done, megabytes of memory, open files."""

    seconds: float
    done: int
    megabytes: float
    files: int


def watched(command: list[str], prepared: Path, log: Path) -> tuple[int, list[Look]]:
    """Run a command, and look at it and its workers while it runs; its return code and the looks."""
    looks, start = [], time.monotonic()
    whole: set[str] = set()  # folders that need not be counted again: looking must not take longer and longer

    def prepared_series() -> int:
        done = 0
        for folder in os.scandir(prepared) if prepared.is_dir() else ():
            if folder.is_dir() and folder.name not in whole:
                files = sum(name.endswith(".h5") and not name.startswith(".") for name in os.listdir(folder))
                done += files
                if files == len(MRI_TYPES):
                    whole.add(folder.name)
                    done -= files
        return done + len(MRI_TYPES) * len(whole)

    with log.open("w") as stream:
        process = subprocess.Popen(
            command, stdout=stream, stderr=subprocess.STDOUT, env={**os.environ, "COLUMNS": "120"}
        )
        while process.poll() is None:
            tree = list(_tree(process.pid))
            with contextlib.suppress(OSError):  # of a process that ended meanwhile
                done, seconds = prepared_series(), time.monotonic() - start
                looks.append(Look(seconds, done, sum(map(_megabytes, tree)), sum(map(_open_files, tree))))
            time.sleep(PAUSE)
    return process.returncode, looks


def _tree(pid: int) -> Iterator[int]:
    yield pid
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return
    for child in children:
        yield from _tree(int(child))


def _megabytes(pid: int) -> float:
    """Memory of a process, with all that it shares: a part of it would change as other programs come and go."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


def _open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def judge(studies: list[Study], output: Path) -> list[str]:
    """What is wrong with a prediction of the studies, a sentence each; nothing if all is well."""
    rows = {row["patient"]: row for row in json.loads((output / "patients.json").read_text())["patients"]}
    with (output / "submission.csv").open(newline="") as stream:
        asked = {row["BraTS21ID"]: float(row["MGMT_value"]) for row in csv.DictReader(stream)}
    wrong = []
    names = {one.patient for one in studies}
    if lost := sorted(names - rows.keys() | names - asked.keys()):
        wrong.append(f"{len(lost)} studies have no row: {', '.join(lost[:5])}")
    if more := sorted(rows.keys() - names):
        wrong.append(f"rows of nobody: {', '.join(more[:5])}")
    answers: dict[tuple[str, int], set[float]] = {}
    for one in studies:
        row = rows.get(one.patient)
        if row is None:
            continue
        series = row["series"].get("FLAIR", {})
        said = " ".join(
            [row.get("reason") or "", series.get("reason") or "", *row.get("warnings", []), *series.get("warnings", [])]
        )
        if not 0 <= asked.get(one.patient, np.nan) <= 1:
            wrong.append(f"{one.patient}: probability {asked.get(one.patient)}")
        if one.way and not said.strip():
            wrong.append(f"{one.patient}: {one.way}, and nothing says so")
        if not one.way:
            answers.setdefault((one.layout, one.image), set()).add(asked[one.patient])
            if row.get("reason"):
                wrong.append(f"{one.patient} is sound, and got: {row['reason']}")
            if len(list((output / "masks").glob(f"{one.patient}_*.nii.gz"))) != len(MRI_TYPES):
                wrong.append(f"{one.patient} has not a mask of each series")
    wrong += [
        f"{layout}, image {image}: {len(found)} different answers"
        for (layout, image), found in answers.items()
        if len(found) > 1
    ]
    return wrong


def facts_of(looks: list[Look]) -> dict[str, float]:
    """Memory, open files and pace while the second tenth of the series was prepared, and the last; then the rest of the job begins."""
    most = max(look.done for look in looks)
    preparing = [*(look for look in looks if 0 < look.done < most), next(look for look in looks if look.done == most)]
    facts = {"peak MB": max(look.megabytes for look in looks)}
    for name, low, high in (("second", 0.1, 0.2), ("last", 0.9, 1.0)):
        part = [look for look in preparing if low * most <= look.done <= high * most]
        if len(part) < 2 or part[-1].done == part[0].done:
            continue
        facts[f"{name} tenth, MB"] = float(np.median([look.megabytes for look in part]))
        facts[f"{name} tenth, open files"] = float(np.median([look.files for look in part]))
        facts[f"{name} tenth, ms a study"] = (
            1000 * (part[-1].seconds - part[0].seconds) / (part[-1].done - part[0].done) * len(MRI_TYPES)
        )
    return facts


def soak(count: int, seed: int, work: Path, report: bool = False) -> tuple[list[Study], list[str], dict[str, float]]:
    """Write studies, predict them with tiny networks, and judge; studies, what is wrong, and the facts."""
    studies = write_studies(work / "studies", count, seed)
    segmenter, classifier = sound.weights(work / "weights")
    for mri_type in MRI_TYPES[1:]:
        shutil.copy(classifier, classifier.with_name(f"model_{mri_type}.pt"))
    options = {
        "input": work / "studies", "output": work / "prediction", "segmenter": segmenter, "classifier": classifier.parent,
        "min_tumor_ratio": -1, "max_contours": 1000, "device": "cpu", "runtime": "eager", "report": report,
    }  # fmt: skip
    command = [sys.executable, "-c", "from radiogenomics.scripts.cli import main; main()", "predict"]
    command += [f"--{name}={value}" for name, value in options.items()]
    code, looks = watched(command, work / "prediction" / "prepared", work / "log.txt")
    if code:
        return studies, [f"predict ended with {code}: {(work / 'log.txt').read_text()[-1500:]}"], {}
    facts = facts_of(looks)
    return studies, judge(studies, work / "prediction"), {"seconds": looks[-1].seconds, **facts}


def main() -> int:
    """Read the command line, soak, and write the table; 1 if something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000, help="studies")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("soak.md"), help="Markdown file of the tables")
    parser.add_argument("--work", type=Path, help="folder that is kept; by default a temporary one")
    parser.add_argument("--report", action="store_true", help="write the report of all studies as well")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = (options.work or Path(temporary)).resolve()
        studies, wrong, facts = soak(options.count, options.seed, work, options.report)
    kinds = [
        {"layout": layout, "studies": len(mine), "broken": sum(bool(one.way) for one in mine)}
        for layout in LAYOUTS
        if (mine := [one for one in studies if one.layout == layout])
    ]
    ways = [{"way": way, "studies": sum(one.way == way for one in studies)} for way in WAYS]
    measured = [{"fact": name, "value": value} for name, value in facts.items()]
    text = "\n".join(markdown_table(rows) for rows in (kinds, ways, measured) if rows)
    text += "\n" + "".join(f"- {one}\n" for one in wrong or ["Nothing was lost, and nothing is wrong."])
    options.output.write_text(text, encoding="utf-8")
    print(text)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
