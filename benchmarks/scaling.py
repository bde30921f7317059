"""How the cost grows: with the number of studies in one process, and from one process to two.

What follows from the figures for many studies is in ``many_studies.py``.
"""

from __future__ import annotations

import csv
import json
import logging
import shutil
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from . import process, report, study

logger = logging.getLogger(__name__)

PATIENTS = (4, 16, 64)
SIDE_PATIENTS = 8
SPACING, THICKNESS = 4.0, 12.0  # mm, of the small phantoms
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"), "1")
SIDES = {"one process": 1, "two processes": 2}
KEEP_ALL = {"min_tumor_ratio": -1, "max_contours": 100_000}
TORCH = {"runtime": "torch", "num_workers": 0}  # which keeps to the number of threads it is given, unlike OpenVINO

EPOCHS = 3  # the first one does not count: memory is allocated in it
STEPS = 2
UNTURNED = {"init": "none", "warmup_epochs": 0, "num_workers": 0, "max_epochs": EPOCHS, "val_interval": EPOCHS}
TRAININGS: dict[str, dict[str, Any]] = {
    "segmentation": {
        **UNTURNED,
        "encoder_name": "tu-resnet10t",
        "decoder_channels": [64, 48, 24, 16, 8],
        "image_size": 96,
        "batch_size": 8,
    },
    "classification": {
        **UNTURNED,
        "backbone": "resnet10t",
        "hidden_size": 32,
        "image_size": 96,
        "sequence_length": 6,
        "stride": 1,  # so that two patients are enough
        "batch_size": 4,
    },
}
"""Networks of middle size; the batch is that of all processes together."""


def main(repeats: int = 3, cache: str | Path = study.CACHE) -> str:
    """Measure how the cost of prediction and training grows.

    Args:
        repeats: rounds; in every round each number of patients and each side runs once.
        cache: folder for studies, weights and outputs.

    Returns:
        The section of the report.
    """
    folder = Path(cache) / "scaling"
    folder.mkdir(parents=True, exist_ok=True)
    return report.section(
        "Scaling",
        f"Phantom studies of four DICOM series, voxels of {SPACING:g} mm, slices of {THICKNESS:g} mm; networks with random "
        f"weights. Medians of {repeats} (smallest to largest).",
        "### By the number of studies",
        "One process, tiny networks.",
        report.table(by_studies(repeats, folder)),
        "### From one process to two",
        f"One thread a process, gloo. Prediction: {SIDE_PATIENTS} patients, FLAIR, both networks at full size, work without "
        f"the start. Training: an epoch of {STEPS} steps of networks of middle size, the first epoch left out; two processes "
        "have half of the batch each.",
        report.table([*predictions(repeats, folder), *trainings(repeats, folder)]),
        "### A study of the challenge's size",
        report.table(challenge_size(Path(cache))),
        f"Gradients that a process exchanges in a step: {_gradients()}.",
    )


def by_studies(repeats: int, folder: Path) -> list[dict[str, Any]]:
    """A row for each number of patients; a further study costs what the row has more than the one above it.

    Args:
        repeats: rounds.
        folder: for studies, weights and outputs.
    """
    from .memory import tiny_weights

    files = tiny_weights(folder / "tiny")
    seconds: dict[int, list[float]] = {count: [] for count in PATIENTS}
    peaks: dict[int, list[float]] = {count: [] for count in PATIENTS}
    rows: list[dict[str, Any]] = []
    for number in range(repeats):
        for count in PATIENTS:
            logger.info("round %d of %d: %d patients", number + 1, repeats, count)
            command = prediction(studies(count, folder), folder / f"tiny-{count}", {**files, **TORCH, **KEEP_ALL})
            taken, peak = process.watch([*_start(1), *command])
            seconds[count].append(taken)
            peaks[count].append(peak)
    before = None
    for count in PATIENTS:
        wall, output = statistics.median(seconds[count]), folder / f"tiny-{count}"
        row = {"": f"{count} studies", "wall time": report.spread(seconds[count])}
        if before is not None:
            row["a further study"] = f"{(wall - before[1]) / (count - before[0]):.3f} s"
        row["peak memory"] = report.megabytes(statistics.median(peaks[count]))
        written = {name: process.size_on_disk(output / name) for name in ("prepared", "masks")}
        tables = output.joinpath("prepared", "index.json").stat().st_size
        written["prepared"] -= tables
        tables += sum(path.stat().st_size for path in output.iterdir() if path.is_file())
        row |= {f"{name}, a study": f"{size / count / 1e3:,.1f} kB" for name, size in written.items()}
        row["tables, a study"] = f"{tables / count / 1e3:,.1f} kB"
        row["files, a study"] = f"{sum(path.is_file() for path in output.rglob('*')) / count:.1f}"
        rows.append(row)
        before = (count, wall)
    return rows


def predictions(repeats: int, folder: Path) -> list[dict[str, Any]]:
    """Prediction in one process and in two, in turn.

    Args:
        repeats: rounds.
        folder: for studies, weights and outputs.
    """
    source = studies(SIDE_PATIENTS, folder)
    settings = {**full_weights(folder / "full"), **TORCH, **KEEP_ALL, "mri_types": "FLAIR"}
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    whole: dict[str, list[float]] = {side: [] for side in SIDES}
    submissions = set()
    for number in range(repeats):
        for side, processes in SIDES.items():
            logger.info("round %d of %d: prediction in %s", number + 1, repeats, side)
            output = folder / side.replace(" ", "-")
            command = prediction(source, output, settings)
            whole[side].append(process.watch([*_start(processes), *command])[0])
            seconds[side].append(work_seconds(output))
            submissions.add((output / "submission.csv").read_bytes())
    same = "equal" if len(submissions) == 1 else "DIFFERENT"
    return compared("prediction", seconds, whole, same)


def trainings(repeats: int, folder: Path) -> list[dict[str, Any]]:
    """Both stages of training in one process and in two, in turn.

    Args:
        repeats: rounds.
        folder: for data and outputs.
    """
    data = training_data(folder)
    rows = []
    for stage, settings in TRAININGS.items():
        seconds: dict[str, list[float]] = {side: [] for side in SIDES}
        whole: dict[str, list[float]] = {side: [] for side in SIDES}
        losses: dict[str, float] = {}
        for number in range(repeats):
            for side, processes in SIDES.items():
                logger.info("round %d of %d: %s in %s", number + 1, repeats, stage, side)
                output = folder / f"{stage}-{side.replace(' ', '-')}"
                shutil.rmtree(output, ignore_errors=True)
                values = {**settings, **data[stage], "batch_size": settings["batch_size"] // processes}
                values["train#dataset#data"] = f"{_items(stage)}[:{settings['batch_size'] * STEPS}]"
                # in the place of the progress bar
                handler = {"_target_": "benchmarks.scaling.EpochSeconds", "file": str(output / "epochs.json")}
                values |= {"output_dir": str(output), "train#progress_bar": handler}
                (folder / "job.json").write_text(json.dumps([f"train_{stage}", values]))
                command = ["benchmarks.scaling", str(folder / "job.json")]
                whole[side].append(process.watch([*_start(processes), *command])[0])
                seconds[side] += json.loads((output / "epochs.json").read_text())[1:]
                with open(output / "history.csv", newline="", encoding="utf-8") as stream:
                    losses[side] = float(list(csv.DictReader(stream))[-1]["train_loss"])
        same = "loss " + " and ".join(f"{loss:.3f}" for loss in losses.values())
        rows += compared(f"training, {stage}", seconds, whole, same)
    return rows


def _items(stage: str) -> str:
    """The expression of a stage's configuration for all items that train."""
    from scripts.environment import BUNDLE_ROOT

    config = yaml.safe_load((BUNDLE_ROOT / "configs" / f"train_{stage}.yaml").read_text(encoding="utf-8"))
    return str(config["train"]["dataset"]["data"])


def compared(
    job: str, seconds: Mapping[str, Sequence[float]], whole: Mapping[str, Sequence[float]], results: str
) -> list[dict[str, Any]]:
    """A row a side.

    Args:
        job: its name.
        seconds: of the work, by side.
        whole: wall times, by side.
        results: how those of the two sides compare.
    """
    one, two = (statistics.median(seconds[side]) for side in SIDES)
    rows: list[dict[str, Any]] = []
    for side in SIDES:
        rows.append(
            {"": f"{job}: {side}", "work": report.spread(seconds[side]), "wall time": report.spread(whole[side])}
        )
    rows[-1] |= {"times as fast": f"{one / two:.2f}", "efficiency": f"{one / two / 2:.2f}", "results": results}
    return rows


class EpochSeconds:
    """Ignite handler that writes the seconds of every epoch's training, from its start to its last step.

    Args:
        file: JSON list, written by the first process.
    """

    def __init__(self, file: str) -> None:
        self.file = Path(file)
        self.seconds: list[float] = []

    def attach(self, engine: Any) -> None:
        """Look at the clock at the start of epochs and after steps."""
        from ignite.engine import Events

        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._step)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._write)

    def _start(self) -> None:
        self.started = time.perf_counter()

    def _step(self) -> None:
        self.stopped = time.perf_counter()

    def _write(self) -> None:
        from scripts import distributed

        self.seconds.append(self.stopped - self.started)
        if distributed.is_first():
            self.file.write_text(json.dumps(self.seconds))


def challenge_size(cache: Path) -> list[dict[str, Any]]:
    """What a study of the challenge's size takes to read and to store, with the masks that the phantom truly has.

    Args:
        cache: folder of the phantom cohort.
    """
    import numpy as np
    import torch
    from monai.transforms import LoadImage

    from custom_transforms import SeriesReader
    from scripts.masks import label_map, save_label_map
    from scripts.prepared import write_series

    from . import weights

    home = study.cohort(cache)
    read = LoadImage(reader=SeriesReader(), image_only=True, ensure_channel_first=True)
    rows = []
    dicom = sorted((home / "task2" / "train").iterdir())[0]
    names = [f"{name}.nii.gz" for name in ("flair", "t1", "t1ce", "t2")]
    nifti = sorted(path for path in (home / "task1" / "BraTS2021_00000").iterdir() if path.name.endswith(tuple(names)))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for kind, series in (("DICOM", sorted(dicom.iterdir())), ("NIfTI", nifti)):
        taken = []
        for _ in range(3):
            began = time.perf_counter()
            for path in series:
                read(path)
            taken.append(time.perf_counter() - began)
        size = sum(process.size_on_disk(path) if path.is_dir() else path.stat().st_size for path in series)
        row = {"": f"reading, {kind}", "bytes": report.megabytes(size), "one thread": report.spread(taken)}
        rows.append({**row, "files": sum(len(list(path.iterdir())) if path.is_dir() else 1 for path in series)})
    torch.set_num_threads(threads)
    folder = cache / "scaling" / "sizes"
    shutil.rmtree(folder, ignore_errors=True)
    patients = len(list((home / "task2" / "train").iterdir()))
    for number, one in enumerate(weights.training_series(cache)):
        image, masks = one.image.numpy(), one.masks.numpy()
        kept = np.flatnonzero(masks[:, 0].any((1, 2)))
        write_series(folder / f"{number}.h5", image[kept], kept, masks > 0, {})
        save_label_map(label_map(masks), np.eye(4), folder / f"{number}.nii.gz")
    for kind, pattern in (("prepared", "*.h5"), ("masks", "*.nii.gz")):
        count = len(list(folder.glob(pattern)))
        size = process.size_on_disk(folder, pattern)
        rows.append({"": kind, "bytes": report.megabytes(size / patients), "files": count // patients})
    return rows


def _gradients() -> str:
    """Bytes of both networks' gradients at full size."""
    import torch

    from scripts.networks import build_classifier, build_segmenter
    from scripts.weights import CLASSIFIER_SETTINGS, SEGMENTER_SETTINGS

    with torch.device("meta"):
        networks = {"U-Net++": build_segmenter(SEGMENTER_SETTINGS), "classifier": build_classifier(CLASSIFIER_SETTINGS)}
    sizes = {name: 4 * sum(one.numel() for one in network.parameters()) for name, network in networks.items()}
    return ", ".join(f"{report.megabytes(size)} ({name})" for name, size in sizes.items())


# ---------------------------------------------------------------------------------------------------------------------
# what is measured


def phantoms(folder: Path) -> Path:
    """A cohort of small phantoms: some labelled patients of both tasks, and two to be predicted."""
    from scripts.synthetic.cohort import write_cohort

    cohort = folder / "cohort"
    if not cohort.is_dir():
        write_cohort(cohort, 3, 4, 2, spacing=SPACING, slice_thickness=THICKNESS)
    return cohort


def studies(patients: int, folder: Path) -> Path:
    """Folder with so many studies; all of them are links to two phantoms, which two processes share evenly."""
    sources = sorted((phantoms(folder) / "task2" / "test").iterdir())
    home = folder / f"studies-{patients}"
    home.mkdir(exist_ok=True)
    for number in range(patients):
        link = home / f"{number:05d}"
        if not link.is_symlink():
            link.symlink_to(sources[number // 2 % len(sources)].resolve())
    return home


def full_weights(folder: Path) -> dict[str, Path]:
    """Random weights of both networks at full size; the segmenter finds a tumour nearly wherever it looks."""
    import torch

    from scripts.networks import build_classifier, build_segmenter
    from scripts.weights import CLASSIFIER_SETTINGS, SEGMENTER_SETTINGS, save_weights

    files = {"segmenter": folder / "segmentation.pt", "classifier": folder / "classifier.pt"}
    if not all(file.is_file() for file in files.values()):
        torch.manual_seed(1)
        segmenter: Any = build_segmenter(SEGMENTER_SETTINGS)
        segmenter.segmentation_head[0].bias.data = torch.tensor([5.0, -5.0])
        save_weights(segmenter, SEGMENTER_SETTINGS, files["segmenter"])
        save_weights(build_classifier(CLASSIFIER_SETTINGS), CLASSIFIER_SETTINGS, files["classifier"])
    return files


def training_data(folder: Path) -> dict[str, dict[str, str]]:
    """Data lists and prepared slices of both stages, by stage."""
    from scripts import cli

    from .memory import tiny_weights

    cohort, prepared = phantoms(folder), folder / "prepared"
    lists = {"segmentation": folder / "task1.json", "classification": folder / "task2.json"}
    for file, task in zip(lists.values(), ("task1", "task2"), strict=True):
        cli.datalist(cohort / task, file, folds=2, overwrite=True)
    cli.prepare("segmentation", prepared / "segmentation", lists["segmentation"], num_workers=0)
    segmenter = tiny_weights(folder / "tiny")["segmenter"]
    settings: dict[str, Any] = {**TORCH, **KEEP_ALL, "section": "training"}
    cli.prepare(
        "classification", prepared / "classification", lists["classification"], None, segmenter, "FLAIR", **settings
    )
    return {stage: {"datalist": str(file), "prepared_dir": str(prepared / stage)} for stage, file in lists.items()}


def prediction(source: Path, output: Path, settings: Mapping[str, Any]) -> list[str]:
    """Module and options of a prediction into a folder, which is removed before."""
    shutil.rmtree(output, ignore_errors=True)
    options = {"input": source, "output": output, **settings}
    return ["scripts.cli", "predict", *(f"--{name}={value}" for name, value in options.items())]


def work_seconds(output: Path) -> float:
    """Seconds of a prediction from the first file that it wrote, when it had looked at its input, to the last one."""
    first, last = (output / name for name in ("resolved_config.yaml", "patients.json"))
    return last.stat().st_mtime - first.stat().st_mtime


def _start(processes: int) -> list[str]:
    """Words that start a module in so many processes, each with one thread."""
    environment = ["env", *(f"{name}={value}" for name, value in ONE_THREAD.items())]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    return [*environment, sys.executable, *(torchrun if processes > 1 else []), "-m"]


def _run_job(file: str | Path) -> None:
    from scripts import cli

    config, settings = json.loads(Path(file).read_text())
    cli.run_config(config, **settings)


if __name__ == "__main__":  # a job in a process that is measured
    logging.basicConfig(level=logging.WARNING)
    _run_job(sys.argv[1])
