"""The inputs of the mutation campaign, the commands that read each, and what each must write."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from . import inputs_dicom, inputs_files, inputs_images, inputs_weights, oracle, sound
from .worker import OVERLAY, ROOT

SHARES = {
    "DICOM headers": 24, "DICOM bytes": 11, "DICOM compressed": 5, "DICOM multi-frame": 6, "NIfTI": 17, "pictures": 8, "tables of labels": 5,
    "data lists": 5, "rules (YAML)": 4, "settings": 3, "runs (YAML, JSON)": 2, "weights": 9, "zip files": 2,
}  # fmt: skip
"""Inputs of each kind in a hundred."""
ASKED = ("P-SOUND", "P-BROKEN")
CONFIGS = ROOT / "bundle" / "configs"
BUNDLE_RULES = CONFIGS / "modality_rules.yaml"


@dataclass
class Case:
    """An input.

    Attributes:
        kind: of :data:`SHARES`.
        what: is wrong with it.
        commands: words, and the check of what they wrote.
        names: one of which a message must hold.
    """

    kind: str
    what: str
    commands: list[tuple[list[Any], Callable[[Path], Iterator[str]]]]
    names: list[str] = field(default_factory=lambda: ["P-BROKEN"])


class Campaign:
    """The sound part, and the inputs made from it.

    Args:
        home: folder for all files.
        seed: of the inputs.
    """

    def __init__(self, home: Path, seed: int) -> None:
        self.seed = seed
        self.home, self.sound, self.place, self.out = home, home / "sound", home / "in", home / "out"
        kinds = [kind for kind, count in SHARES.items() for _ in range(count)]
        Random(0).shuffle(kinds)
        self.kinds = kinds
        self.segmenter, self.classifier = sound.weights(home / "weights")
        sound.save_dicom(sound.dicom(0, "P-SOUND"), self.sound / "P-SOUND" / "FLAIR")
        sound.save_dicom(sound.dicom(0, "P-SOUND"), self.sound / "P-SOUND-COPY" / "scan")
        shutil.move(self.sound / "P-SOUND-COPY", home / "exported" / "P-SOUND")
        both = home / "both"
        shutil.copytree(self.sound, both)
        sound.save_dicom(sound.dicom(1, "P-BROKEN"), both / "P-BROKEN" / "FLAIR")
        (home / "asked.csv").write_text("BraTS21ID,MGMT_value\n" + "".join(f"{name},0.5\n" for name in ASKED))
        self.known, self.starts = home / "known", 0

    def first(self) -> list[list[Any]]:
        """Commands by which a process is warmed up; what those of its first start write is what is right."""
        place = self.known if not self.starts else self.home / f"known{self.starts}"
        self.starts += 1
        if self.starts > 1:
            return [
                self.words("predict", self.sound, place / "predict"),
                self.words("volumes", self.sound, place / "volumes"),
            ]
        words = [
            self.words(name, self.sound, place / name)
            for name in ("predict", "segment", "volumes", "explore", "studies")
        ]
        words.append(self.words("predict", self.home / "both", place / "run"))
        words.append(self.words("predict", self.sound, place / "dicom", "--dicom", True, "--report", True))
        return [*words, ["show", self.sound / "P-SOUND" / "FLAIR", "--output", place / "shown", "--video", False]]

    def words(self, command: str, source: Path | None, out: Path, *more: Any) -> list[Any]:
        """What is typed."""
        networks = ["--segmenter", self.segmenter, "--runtime", "eager"]
        rest: dict[str, list[Any]] = {
            "predict": [
                *networks,
                "--classifier",
                self.classifier,
                "--mri_types",
                "FLAIR",
                "--min_tumor_ratio",
                -1,
                "--max_contours",
                1000,
            ],
            "segment": networks,
            "volumes": ["--size", "16,16,8"],
        }
        words = [command, *(["--input", source] if source else []), "--output", out, *rest.get(command, [])]
        if command != "studies":
            words += ["--num_workers", 0]
        if command in ("predict", "segment", "volumes"):
            words += ["--brain", "never"]
        if command == "predict" and "--report" not in more:
            words += ["--report", False]
        return [*words, *more]

    # -----------------------------------------------------------------------------------------------------------------
    # inputs

    def case(self, number: int) -> Case:
        """The input of this number, written anew; one that pydicom will not write gives way to the next."""
        for turn in itertools.count():
            try:
                return self._made(number, Random(f"{self.seed}/{number}" + f"/{turn}" * bool(turn)))
            except (OverflowError, ValueError, TypeError, AttributeError):
                if turn == 20:
                    raise
        raise AssertionError

    def _made(self, number: int, rng: Random) -> Case:
        for folder in (self.place, self.out):
            shutil.rmtree(folder, ignore_errors=True)
        self.place.mkdir(parents=True)
        kind = self.kinds[number % len(self.kinds)]
        made = Case(kind, "", [])
        if kind.startswith("DICOM") or kind in ("NIfTI", "pictures"):
            self._images(made, rng)
        elif kind in ("tables of labels", "data lists", "rules (YAML)", "zip files"):
            self._texts(made, rng)
        elif kind == "weights":
            self._weights(made, rng)
        else:
            self._runs(made, rng)
        return made

    def _images(self, made: Case, rng: Random) -> None:
        where = self.place / "P-BROKEN"
        exported = made.kind.startswith("DICOM") and rng.random() < 0.4
        shutil.copytree(self.home / "exported" if exported else self.sound, self.place, dirs_exist_ok=True)
        series = where / ("scan" if exported else "FLAIR")
        if made.kind == "NIfTI":
            made.what, (series,) = inputs_images.nifti(rng, where)
        elif made.kind == "pictures":
            made.what, _ = inputs_images.pictures(rng, where)
        else:
            slices, faults = sound.dicom(1, "P-BROKEN"), []
            if made.kind == "DICOM compressed":
                faults.append(inputs_dicom.lying_image(rng, slices))
            elif made.kind == "DICOM multi-frame":
                faults.append(inputs_dicom.multiframe(rng, slices))
            elif made.kind == "DICOM headers":
                faults += [rng.choice(inputs_dicom.HEADERS)(rng, slices) for _ in range(rng.choice([1, 1, 2]))]
            files = inputs_dicom.save(slices, series)
            if made.kind == "DICOM bytes":
                faults.append(inputs_dicom.damage(rng, files))
            made.what = f"{'; '.join(faults)}{' (exported)' if exported else ''}"
        self._read_images(made, rng, series, exported)

    def _read_images(self, made: Case, rng: Random, series: Path, exported: bool) -> None:
        """One command in turn reads each image; of one in seven, one more that takes longer: prediction, segmentation or explore."""
        where, known, out = self.place, self.known, self.out
        if exported:  # a patient goes by a name that may be what is wrong
            more: list[Any] = []
        else:
            more = ["--sample_submission", self.home / "asked.csv"]
        if made.kind.startswith("DICOM") and rng.random() < 0.4:
            more += ["--dicom", True, "--deidentify", not exported and rng.random() < 0.5]
        if rng.random() < 0.15:
            more += ["--report", True]
        asked = None if exported else ASKED
        predict = (
            self.words("predict", where, out / "predict", *more),
            lambda folder: oracle.check_predict(folder, known / "predict", asked, where),
        )
        light: list[tuple[list[Any], Any]] = [
            (
                self.words("studies", where, out / "studies"),
                lambda folder: oracle.check_rows(folder, known / "studies", "studies.csv", "modality", not exported),
            ),
            (
                self.words("volumes", where, out / "volumes"),
                lambda folder: oracle.check_rows(folder, known / "volumes", "volumes.csv", "modality", not exported),
            ),
            (
                ["show", series, "--output", out / "show", "--video", False, "--animation", False],
                lambda folder: _nothing(folder, "*.png"),
            ),
            (
                ["show", where, "--patient", "P-BROKEN", "--output", out / "shown", "--animation", False],
                lambda folder: _nothing(folder, "*.png"),
            ),
        ]
        heavy = [
            predict, predict,
            (self.words("segment", where, out / "segment"), lambda folder: oracle.check_rows(folder, known / "segment", "volumes.csv", "mri_type", not exported)),
            (self.words("explore", where, out / "explore"), lambda folder: _nothing(folder, "explore.html")),
            (self.words("explore", where, out / "headers", "--pixels", False), lambda folder: _nothing(folder, "explore.html")),
        ]  # fmt: skip
        if made.kind.startswith("DICOM"):
            light.append((["headers", series], _all_right))
            light.append(
                (
                    [
                        "headers",
                        series,
                        self.sound / "P-SOUND" / "FLAIR",
                        "--private",
                        True,
                        "--html",
                        out / "page" / "headers.html",
                    ],
                    lambda folder: _nothing(folder, "headers.html"),
                )
            )
        made.commands = [rng.choice(light), *([rng.choice(heavy)] if rng.random() < 0.15 else [])]

    def _texts(self, made: Case, rng: Random) -> None:
        known, out, both = self.known, self.out, self.home / "both"
        file = (
            self.place
            / {
                "tables of labels": "labels.csv",
                "data lists": "list.json",
                "rules (YAML)": "rules.yaml",
                "zip files": "studies.zip",
            }[made.kind]
        )
        made.names = [file.name]
        if made.kind == "tables of labels":
            made.what, data = inputs_files.labels(rng)
            made.commands = rng.sample(
                [
                    (self.words("predict", both, out / "predict", "--sample_submission", file), lambda folder: oracle.check_predict(folder, known / "predict", None, both)),
                    (self.words("explore", both, out / "explore", "--labels", file, "--pixels", False), lambda folder: _nothing(folder, "explore.html")),
                    (self.words("volumes", both, out / "volumes", "--labels", file), lambda folder: _nothing(folder, "P-SOUND_FLAIR.npz")),
                    (["show", both, "--label_folder", file, "--modality", "FLAIR", "--output", out / "show", "--animation", False, "--video", False], lambda folder: _nothing(folder, "labels_FLAIR.png")),
                    (["datalist", both, out / "list.json", "--labels", file, "--folds", 2], _all_right),
                ], 2,
            )  # fmt: skip
        elif made.kind == "data lists":
            content = {
                "name": "x",
                "dataset_dir": str(both),
                "training": [],
                "validation": [],
                "test": [{"patient": name, "FLAIR": f"{name}/FLAIR"} for name in ASKED],
            }
            made.what, data = inputs_files.datalist(rng, content)
            made.commands = rng.sample(
                [
                    (self.words("predict", None, out / "predict", "--datalist", file), lambda folder: oracle.check_predict(folder, known / "predict", None, None)),
                    (self.words("explore", None, out / "explore", "--datalist", file), lambda folder: _nothing(folder, "explore.html")),
                    (self.words("volumes", None, out / "volumes", "--datalist", file), lambda folder: _nothing(folder, "volumes.csv")),
                ], 1,
            )  # fmt: skip
        elif made.kind == "rules (YAML)":
            made.what, data = inputs_files.rules(rng, BUNDLE_RULES.read_text(encoding="utf-8"))
            source = self.home / "exported"
            made.names += [str(source)]
            made.commands = [
                (
                    self.words("studies", source, out / "studies", "--rules", file),
                    lambda folder: _nothing(folder, "studies.csv"),
                ),
            ]
        else:
            made.what, data = inputs_weights.archive(rng, both)
            made.commands = [
                (
                    self.words("volumes", file, out / "volumes"),
                    lambda folder: oracle.check_rows(folder, known / "volumes", "volumes.csv", "modality", False),
                ),
                (self.words("studies", file, out / "studies"), lambda folder: _nothing(folder, "studies.csv")),
            ]
        file.write_bytes(data)

    def _weights(self, made: Case, rng: Random) -> None:
        out = self.out
        stage = rng.choice(["segmenter", "classifier"])
        file = self.place / "weights.pt"
        made.what, data = inputs_weights.weights(rng, self.segmenter if stage == "segmenter" else self.classifier)
        made.what, made.names = f"{stage}: {made.what}", [file.name]
        file.write_bytes(data)
        words = self.words("predict", self.sound, out / "predict")
        words[words.index(self.segmenter if stage == "segmenter" else self.classifier)] = file
        made.commands = [
            rng.choice(
                [
                    (words, lambda folder: _nothing(folder, "submission.csv")),
                    (["doctor", f"--{stage}", file], _all_right),
                ]
            )
        ]

    def _runs(self, made: Case, rng: Random) -> None:
        """Settings that are typed; files of an earlier run that are damaged."""
        out = self.out
        if made.kind == "settings" and rng.random() < 0.4:
            file, base = self.place / "mine.yaml", CONFIGS / "inference.yaml"
            made.what, data = inputs_files.overlay(rng)
            file.write_bytes(data)
            words = [
                OVERLAY,
                base,
                file,
                "--dataset_dir",
                self.sound,
                "--output_dir",
                out / "overlay",
                "--segmenter",
                self.segmenter,
            ]
            words += ["--classifier", self.classifier, "--runtime", "eager", "--brain", "never"]
            made.commands = [(words, _all_right)]
            return
        if made.kind == "settings":
            setting = rng.choice(
                [
                    "zoom",
                    "min_foreground",
                    "min_tumor_ratio",
                    "max_contours",
                    "prior",
                    "batch_size",
                    "seed",
                    "coarse_step",
                    "planes",
                    "flips",
                    "brain_dir",
                    "segmented_foreground",
                    "amp",
                    "precision",
                    "device",
                    "mri_types",
                    "section",
                    "nothing",
                    "job",
                    "namesakes",
                    "imports",
                ]
            )
            value = rng.choice(
                [*inputs_files.ODD[:-1], "1e400", "-0.0", 10**9, "True", "[1,2]", "{a: 1}", "%x::y", "1e-320"]
            )
            value = value.replace("\x00", "?") if isinstance(value, str) else json.dumps(value)
            made.what, made.names = f"--{setting} {value[:60]}", [setting]
            words = self.words("predict", self.sound, out / "predict")
            made.commands = [([*words, f"--{setting}={value}"], lambda folder: _nothing(folder, "submission.csv"))]
            return
        run = out / "run"
        shutil.copytree(self.known / "run", run)
        file = run / rng.choice(
            [
                "resolved_config.yaml",
                "patients.json",
                "submission.csv",
                "studies.json",
                "prepared/index.json",
                "prepared/P-BROKEN/FLAIR.h5",
                "prepared/P-SOUND/FLAIR.logits.json",
            ]
        )
        data = file.read_bytes()
        if file.suffix == ".h5":
            changed = bytearray(data)
            for _ in range(rng.choice([1, 300])):
                changed[rng.randrange(len(data))] = rng.randrange(256)
            kind, changed = "flip", bytes(changed) if rng.random() < 0.5 else data[: rng.randrange(len(data))]
        else:
            kind, changed = inputs_files.damaged(rng, data)
        file.write_bytes(changed)
        made.what, made.names = f"{file.relative_to(run)} {kind}", [file.name, str(run)]
        again = (
            self.words("predict", self.home / "both", run, "--overwrite", True)
            if rng.random() < 0.5
            else self.words("predict", self.home / "both", run)
        )
        made.commands = [
            rng.choice(
                [
                    (["report", run, "--overwrite"], lambda folder: _nothing(folder, "report/report.html")),
                    (again, _all_right),
                ]
            )
        ]


def _all_right(folder: Path) -> Iterator[str]:
    yield from ()


def _nothing(folder: Path, pattern: str) -> Iterator[str]:
    if next(iter(folder.glob(pattern)), None) is None:
        yield f"no {pattern} was written"
