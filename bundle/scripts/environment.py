"""The bundle's location, the packages that results depend on, and their installed versions. Standard library only."""

from __future__ import annotations

import os
import platform
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from .logs import keep_lines_whole

BUNDLE_ROOT = Path(__file__).resolve().parents[1]
"""Folder of ``configs``, ``docs``, ``models`` and ``scripts``."""

_NO_STATISTICS = {
    "ORT_DISABLE_TELEMETRY": "1",  # ONNX Runtime's official builds send events to the vendor, under a stored identifier
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "true",
}
"""Telemetry switches of other packages; values already set are kept."""


def without_statistics() -> None:
    """Keep packages imported from now on from sending usage statistics. OpenVINO's are switched off where it is imported."""
    for name, value in _NO_STATISTICS.items():
        os.environ.setdefault(name, value)


without_statistics()
keep_lines_whole()

LAID_OVER = {
    "prepare_classification": "inference",
    "pretrain_segmentation": "train_segmentation",
    "inference_baseline": "inference",
    "prepare_baseline": "inference_baseline",
    "train_baseline": "train_classification",
    "evaluate_baseline": "evaluate_classification",
}
"""Configurations that hold only the changes to another one, by name, and that one."""

NEEDED = (
    "brats-mri-radiogenomics", "monai", "torch", "timm", "segmentation-models-pytorch", "pytorch-ignite", "numpy", "nibabel",
    "pydicom", "python-gdcm", "opencv-python-headless", "h5py", "hdf5plugin",
)  # fmt: skip
OPTIONAL = (
    "highdicom", "openvino", "nncf", "onnx", "onnxruntime", "scikit-learn", "scipy", "tensorboard", "nilearn", "matplotlib", "jinja2",
    "mlflow", "gdown", "scikit-image",
)  # fmt: skip


def config_files(job: str) -> list[Path]:
    """The configurations of a job, each of which is laid over those before it.

    ``distributed.yaml`` is the last in one of several processes that ``torchrun`` started.
    """
    several = int(os.environ.get("WORLD_SIZE") or 1) > 1
    names = [job]
    while names[0] in LAID_OVER:
        names.insert(0, LAID_OVER[names[0]])
    names += ["distributed"] if several else []
    return [BUNDLE_ROOT / "configs" / f"{name}.yaml" for name in names]


@lru_cache
def installed(package: str) -> str | None:
    """The version of a package that is installed, None without it."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def versions() -> dict[str, str]:
    """Versions of Python and of all of these packages that are installed."""
    found = {"python": platform.python_version()}
    return found | {package: one for package in (*NEEDED, *OPTIONAL) if (one := installed(package)) is not None}
