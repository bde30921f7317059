"""Install only from a wheelhouse, in a new environment, and predict a phantom study there with random weights.

python tools/try_wheelhouse.py dist/wheelhouse
python tools/try_wheelhouse.py dist/wheelhouse --environment NOTEBOOK    # an existing one, for example with torch

Where the wheelhouse has no torch, a new environment gets torch and torchvision from the package index first: the notebook has them. This
Python needs the project with its extra [phantom], to make the study and the weights.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def prepare(folder: Path) -> list[str]:
    """Write a study and weights; returns the options of ``radiogenomics predict`` for them."""
    import torch

    from radiogenomics import phantom
    from scripts import weights
    from scripts.exports import network_of

    torch.manual_seed(0)
    phantom(folder / "phantom", segmentation_patients=1, classification_patients=1, test_patients=1, spacing=4.0)
    files = {}
    for what, settings in (("segmenter", weights.SEGMENTER_SETTINGS), ("classifier", weights.CLASSIFIER_SETTINGS)):
        files[what] = folder / f"{what}.pt"
        network = network_of(what, settings)
        if what == "segmenter":
            network.segmentation_head[0].bias.data.fill_(10.0)  # tumour everywhere, or no slice would be classified
        weights.save_weights(network, settings, files[what])
    options = ["--input", str(folder / "phantom" / "task2" / "test"), "--output", str(folder / "prediction")]
    options += [word for what, file in files.items() for word in (f"--{what}", str(file))]
    return [*options, "--mri_types", "FLAIR", "--max_contours", "1000000"]


def main() -> None:
    """Try a wheelhouse."""
    parser = argparse.ArgumentParser(description="Install from a wheelhouse alone and predict.")
    parser.add_argument("wheelhouse", type=Path)
    parser.add_argument("--environment", type=Path, help="virtual environment to install into; by default a new one")
    arguments = parser.parse_args()
    wheelhouse = arguments.wheelhouse.resolve()
    # no configuration of pip that names other places
    alone = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))}
    alone["PIP_CONFIG_FILE"] = os.devnull
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        options = prepare(folder)
        place = (arguments.environment or folder / "environment").resolve()
        if not arguments.environment:
            venv.create(place, with_pip=True)
        programs = place / ("Scripts" if os.name == "nt" else "bin")
        install = [programs / "python", "-m", "pip", "install", "--quiet"]
        if not arguments.environment and not list(wheelhouse.glob("torch-*.whl")):
            meta = json.loads((ROOT / "bundle" / "configs" / "metadata.json").read_text(encoding="utf-8"))
            there = [
                f"torch=={meta['pytorch_version']}",
                f"torchvision=={meta['required_packages_version']['torchvision']}",
            ]
            subprocess.run([*install, *there], check=True)
        offline = ["--no-index", "--find-links", wheelhouse, "brats-mri-radiogenomics"]
        subprocess.run([*install, *offline], env=alone, cwd=folder, check=True)
        command = [programs / "radiogenomics", "predict"]
        # Fire shows the help, but ends with 2 where a command needs words
        shown = subprocess.run([*command, "--help"], env=alone, cwd=folder, check=False, capture_output=True, text=True)
        assert "--segmenter" in shown.stdout + shown.stderr, shown
        subprocess.run([*command, *options], env=alone, cwd=folder, check=True)
        with open(folder / "prediction" / "submission.csv", newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        patients = json.loads((folder / "prediction" / "patients.json").read_text(encoding="utf-8"))["patients"]
        assert [patient["used"] for patient in patients] == [["FLAIR"]], patients
        assert len(rows) == 1, rows
        print(f"{wheelhouse}: installed from it alone, and predicted {rows[0]}")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "bundle"))
    main()
