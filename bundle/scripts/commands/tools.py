"""Commands around the method: doctor, download, export, phantom, demo."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .. import checks
from ..datalists import MRI_TYPES
from ..environment import BUNDLE_ROOT, NEEDED, OPTIONAL, installed
from .running import bundle_module, full_path, run_job, segmenter_path


def doctor(segmenter: str | Path | None = None, classifier: str | Path | None = None) -> dict[str, Any]:
    """Show what a bug report needs: versions, devices, and the weights found, each of which is tested.

    Args:
        segmenter: segmentation weights, as for predict; by default those of the bundle.
        classifier: classifier weights or a folder of them, as for predict; by default those of the bundle.

    Returns:
        The same as a dictionary; with ``problems`` where weights can't be used.
    """
    import torch

    inferers, weights, exports = bundle_module("inferers"), bundle_module("weights"), bundle_module("exports")
    problems: list[str] = []

    def attempt(function: Callable[..., Any], *args: Any) -> Any:
        try:
            return function(*args)
        except Exception as error:
            problems.append(str(error))
            return None

    devices = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    models = BUNDLE_ROOT / "models"
    members = attempt(weights.find_members, full_path(classifier), models) or [dict.fromkeys(MRI_TYPES)]
    found = {
        "segmentation": attempt(weights.find_segmenter, segmenter_path(segmenter), models),
        **weights.by_modality(members),
    }
    networks = {found["segmentation"]: "segmenter", **{file: "classifier" for one in members for file in one.values()}}
    tried = {file: attempt(exports.describe, what, file) for file, what in networks.items() if file}
    if all(tried.values()):
        attempt(weights.member_settings, members)
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "packages": {package: installed(package) or "not installed" for package in NEEDED},
        "optional packages": {package: installed(package) or "not installed" for package in OPTIONAL},
        "devices": {name: f"fast bfloat16: {inferers.has_fast_bf16(torch.device(name))}" for name in devices},
        "bundle": str(BUNDLE_ROOT),
        "shipped files": bundle_module("downloads").shipped(models),
        "weights": {name: file or "none" for name, file in found.items()},
        "tried": {file: result or "can't be used, see problems" for file, result in tried.items()},
        "to get weights": weights.GET_WEIGHTS,
        "use": "Research use only. Not for diagnosis.",
        **({"problems": problems} if problems else {}),
    }


def download() -> Path:
    """Download the weights released by the method's authors (MIT licence) into the bundle."""
    downloads = bundle_module("downloads")
    try:
        downloads.download_all(BUNDLE_ROOT)
    except Exception as error:
        raise OSError(
            f"the released weights could not be downloaded ({error}); `pip install 'brats-mri-radiogenomics[download]'` and a "
            f"connection to Google Drive are needed, or put the files into {BUNDLE_ROOT / 'models' / 'released'} by hand"
        ) from error
    return BUNDLE_ROOT / "models"


def export(
    what: str,
    format: str,
    weights: str | Path,
    output: str | Path,
    overwrite: bool = False,
) -> Path:
    """Write a trained network as TorchScript, ONNX or OpenVINO, for other programs. Research use only, not for diagnosis.

    The file takes normalised images, any number at once, gives logits, carries the bundle's metadata, and is written only if it
    agrees with the network.

    Args:
        what: segmenter or classifier.
        format: torchscript, onnx or openvino.
        weights: weights file of the network.
        output: file to write: .ts, .onnx or .xml.
        overwrite: replace the file.
    """
    checks.one_of(checks.NETWORKS)("what", what)
    checks.one_of(list(checks.SUFFIXES))("format", format)
    checks.file("weights file", checks.GET_WEIGHTS)("weights", weights)
    checks.output_file("output", output)
    return bundle_module("exports").export(what, format, weights, output, overwrite)


def phantom(output: str | Path | None = None, preview: str | Path | None = None, **overrides: Any) -> Path:
    """Write a synthetic cohort in both of the challenge's layouts, to try everything without real data.

    Args:
        output: folder for the cohort.
        preview: PNG to write instead: slices as `radiogenomics pretrain` draws them, with tumour outlines.
        overrides: settings of configs/phantom.yaml: --segmentation_patients, --classification_patients, --test_patients,
            --signal, --spacing, --seed, …; for a preview those of configs/pretrain_segmentation.yaml, --seed for example.

    Raises:
        ValueError: unless exactly one of output and preview is given.
    """
    if (output is None) == (preview is None):
        raise ValueError(
            "name either --output FOLDER for a cohort or --preview FILE.png for a picture of synthetic slices"
        )
    if preview is not None:
        run_job("pretrain_segmentation", preview=full_path(preview), run=["$@drawing"], **overrides)
        return Path(preview)
    run_job("phantom", output_dir=full_path(output), **overrides)
    return Path(str(output))


def demo(output: str | Path = "demo", signal: float = 1.0, overwrite: bool = False) -> Path:
    """Make a phantom cohort, train both stages on it, evaluate, predict, explain, and write a report: a few minutes on a CPU.

    Args:
        output: folder for everything.
        signal: strength of the label's made-up signal in the phantom, 0 (none) to 1.
        overwrite: replace an earlier demo.
    """
    checks.output("output", output)
    checks.number(0, 1)("signal", signal)
    checks.flag("overwrite", overwrite)
    return bundle_module("demo").run(Path(output).resolve(), signal, overwrite)
