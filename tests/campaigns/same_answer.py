"""The same study and weights, computed in other ways: how far masks and probabilities are apart.

    python -m tests.campaigns.same_answer --python .venv-oldest/bin/python .venv-newest/bin/python --output same_answer.md

A phantom study is predicted by the bundle's segmenter and a classifier of the published size, in float32; the classifier's weights are drawn
at random, and those of its last layer are 100 times as large, so that the probability depends on the images.
Promised: masks differ in 1 voxel of 10,000 at most, probabilities by 0.0001.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

import radiogenomics
from tests.campaigns.table import markdown_table

MOST_VOXELS, MOST_PROBABILITY = 1e-4, 1e-4
REFERENCE = {"runtime": "torch", "threads": 2, "batch_size": 16, "num_workers": 1}
OTHERS: dict[str, dict[str, Any]] = {
    "the same again": {},
    "as it was trained (eager)": {"runtime": "eager"},
    "OpenVINO": {"runtime": "openvino"},
    "OpenVINO, 1 thread": {"runtime": "openvino", "threads": 1},
    "compiled (inductor)": {"runtime": "inductor"},
    "1 thread": {"threads": 1},
    "1 slice a batch": {"batch_size": 1},
    "no worker": {"num_workers": 0},
    "2 workers": {"num_workers": 2},
}
_MAIN = "from radiogenomics.scripts.cli import main; main()"
_VERSIONS = "import json, platform, monai, torch; print(json.dumps([platform.python_version(), monai.__version__, torch.__version__]))"


def write_study(folder: Path, spacing: float) -> None:
    """A phantom study, ``study``, and weights of a classifier, ``classifier.pt``."""
    import torch

    from radiogenomics.scripts.networks import build_classifier
    from radiogenomics.scripts.weights import CLASSIFIER_SETTINGS, save_weights

    radiogenomics.phantom(
        folder / "cohort", segmentation_patients=0, classification_patients=0, test_patients=1, spacing=spacing
    )
    (folder / "cohort" / "task2" / "test").rename(folder / "study")
    torch.manual_seed(0)
    network = build_classifier(CLASSIFIER_SETTINGS)
    with torch.no_grad():
        network.clf_head.weight *= 100  # as drawn, hardly anything of an image reaches the probability
    save_weights(network, CLASSIFIER_SETTINGS, folder / "classifier.pt")


def predicted(python: str, folder: Path, output: Path, settings: dict[str, Any]) -> tuple[dict[str, np.ndarray], float]:
    """Masks by file name and the patient's probability.

    Raises:
        RuntimeError: with what the command says, when it fails.
    """
    options = {
        **settings, "input": folder / "study", "output": output, "classifier": folder / "classifier.pt", "device": "cpu",
        "exact": True, "report": False, "min_tumor_ratio": 0, "max_contours": 100, "cache_dir": folder / "cache",
    }  # fmt: skip
    threads = str(options.pop("threads"))
    words = ["predict", *(f"--{name}={value}" for name, value in options.items())]
    done = subprocess.run(
        [python, "-c", _MAIN, *words], capture_output=True, text=True, check=False, cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError((done.stdout + done.stderr).strip().splitlines()[-1])
    masks = {file.name: np.asarray(nib.load(file).dataobj) for file in sorted((output / "masks").glob("*.nii.gz"))}
    (row,) = json.loads((output / "patients.json").read_text())["patients"]
    if row.get("reason"):
        raise RuntimeError(f"no probability: {row['reason']}")
    return masks, row["probability"]


def compared(
    name: str, first: tuple[dict[str, np.ndarray], float], second: tuple[dict[str, np.ndarray], float]
) -> dict[str, Any]:
    """How far two answers are apart, a row of the table."""
    if first[0].keys() != second[0].keys():
        raise RuntimeError(f"{name}: masks of {sorted(second[0])}; expected {sorted(first[0])}")
    voxels = sum(mask.size for mask in first[0].values())
    other = sum(int(np.count_nonzero(mask != second[0][file])) for file, mask in first[0].items())
    away = abs(first[1] - second[1])
    return {
        "way": name,
        "voxels that differ": f"{other} of {voxels:,}",
        "probability differs by": f"{away:.1e}" if away else "0",
        "kept": "yes" if other <= MOST_VOXELS * voxels and away <= MOST_PROBABILITY else "no",
    }


def spread(output: Path) -> str:
    """The probabilities of the series, which show how much the images matter."""
    (row,) = json.loads((output / "patients.json").read_text())["patients"]
    return ", ".join(f"{name} {series['probability']:.4f}" for name, series in row["series"].items())


def measure(folder: Path, pythons: list[str], spacing: float) -> list[dict[str, Any]]:
    """The rows of the table: ways in this environment, then the environments of other interpreters."""
    write_study(folder, spacing)
    first = predicted(sys.executable, folder, folder / "reference", REFERENCE)
    print(f"probability {first[1]:.4f}; series: {spread(folder / 'reference')}", flush=True)
    ways = [(name, sys.executable, {**REFERENCE, **settings}) for name, settings in OTHERS.items()]
    for python in pythons:
        printed = subprocess.run([python, "-c", _VERSIONS], capture_output=True, text=True, check=True).stdout
        name = "Python {}, MONAI {}, PyTorch {}".format(*json.loads(printed.splitlines()[-1]))
        ways += [(name, python, REFERENCE), (f"{name}, OpenVINO", python, {**REFERENCE, "runtime": "openvino"})]
    rows = []
    for place, (name, python, settings) in enumerate(ways):
        try:
            rows.append(compared(name, first, predicted(python, folder, folder / f"way{place}", settings)))
        except RuntimeError as error:
            rows.append({"way": name, "voxels that differ": "", "probability differs by": "", "kept": str(error)})
        print(rows[-1], flush=True)
    return rows


def main() -> int:
    """Read the command line, predict, and write the table; 1 if a way breaks the promise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", nargs="*", default=[], help="interpreters of other environments with this project")
    parser.add_argument("--spacing", type=float, default=3.0, help="mm, of the phantom's voxels")
    parser.add_argument("--output", type=Path, default=Path("same_answer.md"), help="Markdown file of the table")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        rows = measure(Path(temporary), [os.path.abspath(python) for python in options.python], options.spacing)
    options.output.write_text(markdown_table(rows), encoding="utf-8")
    print(markdown_table(rows))
    return int(any(row["kept"] != "yes" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
